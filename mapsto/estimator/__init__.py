"""Few examples of one's own, scikit-learn's habits: fit, transform, predict."""

from mapsto.errors import MapstoError

try:
    import sklearn as sklearn
except ImportError:
    raise MapstoError("mapsto.estimator wants scikit-learn: pip install 'mapsto[sklearn]'") from None

from mapsto.estimator.base_learner import BaseLearner as BaseLearner
from mapsto.estimator.classifier import FewShotClassifier as FewShotClassifier
from mapsto.estimator.extractor import FeatureExtractor as FeatureExtractor
