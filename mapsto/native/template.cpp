// What `mapsto.native` fills in: a learner's step over many tasks.
#include <algorithm>
#include <cmath>
#include <type_traits>

namespace {  // what is in it belongs to this library alone, also where another one has the same names

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
template <bool ADD, int ROWS, int VECTORS, int W, int N, int K, int AM, int AK, int BK>
static inline void tile(const T* a, const T* b, T* c, int first) {
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
    if constexpr (ADD)  // last, so that long sums are taken in parts
#pragma GCC unroll 32
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 32
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += *(const Vector*)(c + r * N + at[v]);
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; ++v) *(Vector*)(c + r * N + at[v]) = sums[r][v];
}

template <bool ADD, int VECTORS, int W, int M, int N, int K, int AM, int AK, int BK>
static void columns(const T* a, const T* b, T* c, int first) {
    constexpr int most = std::max(1, (REGISTERS - VECTORS) / VECTORS), parts = (M + most - 1) / most;
    constexpr int ROWS = (M + parts - 1) / parts, rest = M % ROWS;
    int m = 0;
    for (; m + ROWS <= M; m += ROWS) tile<ADD, ROWS, VECTORS, W, N, K, AM, AK, BK>(a + m * AM, b, c + m * N, first);
    if constexpr (rest > 0) tile<ADD, rest, VECTORS, W, N, K, AM, AK, BK>(a + m * AM, b, c + m * N, first);
}

// As below, for B that the nearest cache holds.
template <int M, int N, int K, int AM, int AK, int BK, bool ADD>
static void block(const T* __restrict a, const T* __restrict b, T* __restrict c) {
    constexpr int full = width(N), W = ADD && N > 4 * full ? std::min(full, N & -N) : full;  // nothing twice
    constexpr int vectors = (N + W - 1) / W, most = std::min(vectors, 4), rest = vectors % most;
    int v = 0;
    for (; v + most <= vectors; v += most) columns<ADD, most, W, M, N, K, AM, AK, BK>(a, b, c, v);
    if constexpr (rest > 0) columns<ADD, rest, W, M, N, K, AM, AK, BK>(a, b, c, v);
}

// C[M, N] (+)= A[M, K] B[K, N]: A's strides are AM and AK, B's rows lie BK apart, C has no gaps.
template <int M, int N, int K, int AM, int AK, int BK, bool ADD = false>
static void product(const T* __restrict a, const T* __restrict b, T* __restrict c) {
    if constexpr (N == 1) {
        for (int m = 0; m < M; ++m) {
            T sum = ADD ? c[m] : 0;
            for (int k = 0; k < K; ++k) sum += a[m * AM + k * AK] * b[k * BK];
            c[m] = sum;
        }
    } else {
        constexpr int near = 24576 / (std::min(N, 4 * width(N)) * int(sizeof(T))), parts = (K + near - 1) / near;
        constexpr int PART = (K + parts - 1) / parts, rest = K % PART;
        block<M, N, PART, AM, AK, BK, ADD>(a, b, c);
        int k = PART;
        for (; k + PART <= K; k += PART) block<M, N, PART, AM, AK, BK, true>(a + k * AK, b + k * BK, c);
        if constexpr (rest > 0 && parts > 1) block<M, N, rest, AM, AK, BK, true>(a + k * AK, b + k * BK, c);
    }
}

// A convolution of N images [H, W, C] with CO filters [KH, KW, C], and its two gradients, as products with columns of
// patches [HO * WO, KH * KW * C], of as many images at a time as the cache holds.
template <int N, int H, int W, int C, int CO, int KH, int KW, int HO, int WO, int SH, int SW, int PH, int PW>
struct Convolution {
    static constexpr int K = KH * KW * C, M = HO * WO, GROUP = std::clamp(128 / M, 1, N);

    static T* columns() {
        alignas(64) static thread_local T memory[GROUP * M * K];
        return memory;
    }

    // What an image's patches and their columns have in common: `work` is given each run of C numbers of both, or null.
    template <typename Work> static inline void patches(Work work) {
        for (int ho = 0; ho < HO; ++ho)
            for (int wo = 0; wo < WO; ++wo)
                for (int kh = 0; kh < KH; ++kh)
                    for (int kw = 0; kw < KW; ++kw) {
                        const int h = ho * SH - PH + kh, w = wo * SW - PW + kw;
                        const bool inside = h >= 0 && h < H && w >= 0 && w < W;
                        work(((ho * WO + wo) * KH + kh) * KW * C + kw * C, inside ? (h * W + w) * C : -1);
                    }
    }

    template <int COUNT> static void read(const T* x, T* to) {
        for (int n = 0; n < COUNT; ++n)
            patches([=](int column, int pixel) {
                for (int c = 0; c < C; ++c)
                    to[n * M * K + column + c] = pixel < 0 ? T(0) : x[n * H * W * C + pixel + c];
            });
    }

    template <typename Work> static void groups(Work work) {
        int n = 0;
        for (; n + GROUP <= N; n += GROUP) work(n, std::integral_constant<int, GROUP>());
        if constexpr (N % GROUP > 0) work(n, std::integral_constant<int, N % GROUP>());
    }

    // filters: [K, CO]
    static void forward(const T* x, const T* filters, T* y) {
        groups([=](int n, auto count) {
            read<count()>(x + n * H * W * C, columns());
            product<count() * M, CO, K, K, 1, CO>(columns(), filters, y + n * M * CO);
        });
    }

    static void to_filters(const T* x, const T* y, T* filters) {
        std::fill_n(filters, CO * K, T(0));
        groups([=](int n, auto count) {
            read<count()>(x + n * H * W * C, columns());
            product<CO, K, count() * M, 1, CO, K, true>(y + n * M * CO, columns(), filters);
        });
    }

    // filters: [CO, K]
    static void to_images(const T* y, const T* filters, T* x) {
        std::fill_n(x, N * H * W * C, T(0));
        groups([=](int first, auto count) {
            product<count() * M, K, CO, CO, 1, K>(y + first * M * CO, filters, columns());
            for (int n = 0; n < count(); ++n)
                patches([=](int column, int pixel) {
                    if (pixel < 0) return;
                    T* to = x + (first + n) * H * W * C + pixel;
                    const T* from = columns() + n * M * K + column;
#pragma GCC ivdep
                    for (int c = 0; c < C; ++c) to[c] += from[c];
                });
        });
    }
};

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

}  // namespace

extern "C" void step(T* const* at, T* scratch, int tasks, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread)
        run(at, scratch + thread * /*ROOM*/, tasks * thread / threads, tasks * (thread + 1) / threads);
    /*MEANS*/
}
