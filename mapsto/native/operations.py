"""The operations that are known, and what they are in C++."""

import operator
from typing import Any

import torch

aten, prims = torch.ops.aten, torch.ops.prims

FORMS = {
    aten.add.Tensor: "{0} + {1}", aten.add.Scalar: "{0} + {1}",
    aten.sub.Tensor: "{0} - {1}", aten.sub.Scalar: "{0} - {1}",
    aten.mul.Tensor: "{0} * {1}", aten.mul.Scalar: "{0} * {1}",
    aten.div.Tensor: "{0} / {1}", aten.div.Scalar: "{0} / {1}",
    aten.neg.default: "-{0}", aten.abs.default: "std::abs({0})", aten.reciprocal.default: "1 / {0}",
    aten.relu.default: "positive({0})", aten.threshold_backward.default: "{1} <= {2} ? T(0) : {0}",
    aten.where.self: "{0} ? {1} : {2}", aten.logical_not.default: "!{0}",
    aten.le.Scalar: "{0} <= {1}", aten.lt.Scalar: "{0} < {1}", aten.eq.Scalar: "{0} == {1}",
    aten.ge.Scalar: "{0} >= {1}", aten.gt.Scalar: "{0} > {1}", aten.ne.Scalar: "{0} != {1}",
    aten.le.Tensor: "{0} <= {1}", aten.lt.Tensor: "{0} < {1}", aten.eq.Tensor: "{0} == {1}",
    aten.ge.Tensor: "{0} >= {1}", aten.gt.Tensor: "{0} > {1}", aten.ne.Tensor: "{0} != {1}",
    aten.exp.default: "std::exp({0})", aten.expm1.default: "std::expm1({0})", aten.log.default: "std::log({0})",
    aten.log1p.default: "std::log1p({0})", aten.sin.default: "std::sin({0})", aten.cos.default: "std::cos({0})",
    aten.tanh.default: "std::tanh({0})", aten.sigmoid.default: "1 / (1 + std::exp(-{0}))",
    aten.erf.default: "std::erf({0})", aten.sqrt.default: "std::sqrt({0})", aten.rsqrt.default: "1 / std::sqrt({0})",
    aten.maximum.default: "larger({0}, {1})", aten.minimum.default: "-larger(-{0}, -{1})",
    aten.clamp_min.default: "larger({0}, {1})", aten.pow.Tensor_Scalar: "std::pow({0}, {1})",
    aten.pow.Scalar: "std::pow({0}, {1})", aten.clamp_max.default: "-larger(-{0}, -{1})",
    aten.bitwise_not.default: "!{0}", aten.bitwise_or.Tensor: "{0} || {1}", aten.bitwise_and.Tensor: "{0} && {1}",
    aten.copy.default: "{1}", aten.clone.default: "{0}", aten._to_copy.default: "T({0})",
    prims.convert_element_type.default: "T({0})",
}  # fmt: skip
"""Element by element, in C++. No part is named twice: it may be a long expression."""

POWERS: dict[Any, str] = {0.0: "T(1)", 1.0: "{0}", 2.0: "square({0})", 3.0: "cube({0})",
                           0.5: "std::sqrt({0})", -0.5: "1 / std::sqrt({0})", -1.0: "1 / {0}"}  # fmt: skip

REDUCTIONS = {aten.sum.dim_IntList: ("0", "{0} + {1}"), aten.sum.default: ("0", "{0} + {1}"),
               aten.mean.dim: ("0", "{0} + {1}"), aten.mean.default: ("0", "{0} + {1}"),
               aten.amax.default: ("-INFINITY", "larger({0}, {1})")}  # fmt: skip
"""Where to start, and how to go on."""

PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}

CONSTANTS = {aten.full.default: None, aten.full_like.default: None, aten.scalar_tensor.default: None,
              aten.ones_like.default: 1, aten.zeros_like.default: 0, aten.empty.memory_format: 0}  # fmt: skip
"""The number, or None where it is the last argument."""

TURNS = {aten.t.default, aten.transpose.int, aten.permute.default}
VIEWS = {*TURNS, aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.unsqueeze.default,
          aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.select.int, aten.alias.default}  # fmt: skip

SCATTERS = {aten.slice_scatter.default: aten.slice.Tensor, aten.select_scatter.default: aten.select.int}

KNOWN = {
    operator.getitem,
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.cat.default,
    *SCATTERS,
    *FORMS,
    *REDUCTIONS,
    *PRODUCTS,
    *CONSTANTS,
    *VIEWS,
}
