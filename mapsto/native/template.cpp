// What `mapsto.native` fills in: a learner's step over many tasks.
#include <algorithm>
#include <cmath>
#include <type_traits>

/*TYPE*/

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 28;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 14;
#else
constexpr int BYTES = 16, REGISTERS = 14;
#endif

static inline T square(T a) { return a * a; }
static inline T cube(T a) { return a * a * a; }
static inline T positive(T a) { return a <= 0 ? T(0) : a; }
static inline T larger(T a, T b) { return a > b || a != a ? a : b; }

constexpr int width(int n) {  // of the vectors for rows of n numbers
    int w = BYTES / sizeof(T);
    while (w > n) w /= 2;
    return w;
}

// out[m, n] = in[n, m]: the rows of `in` lie STRIDE apart.
template <int M, int N, int STRIDE> static void turn(const T* __restrict in, T* __restrict out) {
    int from = 0;
#if !defined(__clang__)
    typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
    typedef std::conditional_t<sizeof(T) == 4, int, long> Index;
    typedef Index Places __attribute__((vector_size(4 * sizeof(T))));
    constexpr Places low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, left = {0, 1, 4, 5}, right = {2, 3, 6, 7};
    for (; from + 4 <= N; from += 4) {
        const T* row = in + from * STRIDE;
        int m = 0;
        for (; m + 4 <= M; m += 4) {
            Four a = *(const Four*)(row + m), b = *(const Four*)(row + STRIDE + m);
            Four c = *(const Four*)(row + 2 * STRIDE + m), d = *(const Four*)(row + 3 * STRIDE + m);
            Four ab = __builtin_shuffle(a, b, low), cd = __builtin_shuffle(c, d, low);
            *(Four*)(out + m * N + from) = __builtin_shuffle(ab, cd, left);
            *(Four*)(out + (m + 1) * N + from) = __builtin_shuffle(ab, cd, right);
            ab = __builtin_shuffle(a, b, high), cd = __builtin_shuffle(c, d, high);
            *(Four*)(out + (m + 2) * N + from) = __builtin_shuffle(ab, cd, left);
            *(Four*)(out + (m + 3) * N + from) = __builtin_shuffle(ab, cd, right);
        }
        for (; m < M; ++m)
            for (int n = from; n < from + 4; ++n) out[m * N + n] = in[n * STRIDE + m];
    }
#endif
    for (int m = 0; m < M; ++m)
        for (int n = from; n < N; ++n) out[m * N + n] = in[n * STRIDE + m];
}

// ROWS rows of C = A B, VECTORS vectors wide; a row's last vector may overlap the one before.
template <int ROWS, int VECTORS, int N, int K, int AM, int AK, int BK>
static inline void tile(const T* a, const T* b, T* c, int first) {
    constexpr int W = width(N);
    typedef T Vector __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
    Vector sums[ROWS][VECTORS] = {};
    int at[VECTORS];
#pragma GCC unroll 32
    for (int v = 0; v < VECTORS; ++v) at[v] = std::min((first + v) * W, N - W);
    for (int k = 0; k < K; ++k) {
        Vector row[VECTORS];
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; ++v) row[v] = *(const Vector*)(b + k * BK + at[v]);
#pragma GCC unroll 32
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 32
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += a[r * AM + k * AK] * row[v];
    }
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; ++v) *(Vector*)(c + r * N + at[v]) = sums[r][v];
}

template <int VECTORS, int M, int N, int K, int AM, int AK, int BK>
static void columns(const T* a, const T* b, T* c, int first) {
    constexpr int most = std::max(1, (REGISTERS - VECTORS) / VECTORS), parts = (M + most - 1) / most;
    constexpr int ROWS = (M + parts - 1) / parts, rest = M % ROWS;
    int m = 0;
    for (; m + ROWS <= M; m += ROWS) tile<ROWS, VECTORS, N, K, AM, AK, BK>(a + m * AM, b, c + m * N, first);
    if constexpr (rest > 0) tile<rest, VECTORS, N, K, AM, AK, BK>(a + m * AM, b, c + m * N, first);
}

// C[M, N] = A[M, K] B[K, N]: A's strides are AM and AK, B's rows lie BK apart, C has no gaps.
template <int M, int N, int K, int AM, int AK, int BK>
static void product(const T* __restrict a, const T* __restrict b, T* __restrict c) {
    if constexpr (N == 1) {
        for (int m = 0; m < M; ++m) {
            T sum = 0;
            for (int k = 0; k < K; ++k) sum += a[m * AM + k * AK] * b[k * BK];
            c[m] = sum;
        }
    } else {
        constexpr int vectors = (N + width(N) - 1) / width(N), most = std::min(vectors, 3), rest = vectors % most;
        int v = 0;
        for (; v + most <= vectors; v += most) columns<most, M, N, K, AM, AK, BK>(a, b, c, v);
        if constexpr (rest > 0) columns<rest, M, N, K, AM, AK, BK>(a, b, c, v);
    }
}

#define NOINLINE __attribute__((noinline))

/*FUNCTIONS*/

// The tasks from one on, up to another, added up in the first numbers of a thread's own memory.
static void run(T* const* at, T* scratch, int from, int to) {
    std::fill_n(scratch, /*SUMS*/, T(0));
    /*SHARED*/
    for (int task = from; task < to; ++task) {
        /*EACH*/
    }
}

static void mean(T* out, const T* sums, int size, int stride, int tasks, int threads) {
    std::copy_n(sums, size, out);
    for (int thread = 1; thread < threads; ++thread)
        for (int i = 0; i < size; ++i) out[i] += sums[thread * stride + i];
    for (int i = 0; i < size; ++i) out[i] /= tasks;
}

extern "C" void step(T* const* at, T* scratch, int tasks, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread)
        run(at, scratch + thread * /*ROOM*/, tasks * thread / threads, tasks * (thread + 1) / threads);
    /*MEANS*/
}
