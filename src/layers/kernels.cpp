// The kernels of src/layers/compiled.py: the parts of BEiT between the matrix products, each in one pass, float32.
//
// MindSpore calls `extern "C"` functions of one signature (ops.Custom, "aot"): inputs first, then outputs, row-major.
// Work is cut into blocks whose size depends on the shapes only, and sums over rows add the blocks in their order. So a
// result is the same to the bit for every number of threads. NaN and infinity are never lost: the loss scale needs them.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

// ---- Threads

using Body = std::function<void(int64_t)>;

std::atomic<int> threads{1};

// Threads that sleep between the kernels, so that they take no time from the matrix products.
class Pool {
 public:
  explicit Pool(int workers) : workers_(workers) {
    for (int i = 0; i < workers; ++i) std::thread(&Pool::work, this).detach();
  }

  // Run `body(0)` to `body(count - 1)`, in any order and on any thread.
  void run(int64_t count, const Body &body) {
    std::lock_guard<std::mutex> one_at_a_time(use_);
    {
      std::lock_guard<std::mutex> lock(state_);
      body_ = &body;
      count_ = count;
      next_ = 0;
      ++job_;
    }
    wake_.notify_all();
    take(body, count);
    std::unique_lock<std::mutex> lock(state_);
    body_ = nullptr;  // a worker that wakes too late finds nothing and is not waited for
    idle_.wait(lock, [this] { return busy_ == 0; });
  }

  int workers() const { return workers_; }

 private:
  void take(const Body &body, int64_t count) {
    for (int64_t i = next_++; i < count; i = next_++) body(i);
  }

  void work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(state_);
    for (;;) {
      wake_.wait(lock, [&] { return body_ != nullptr && job_ != seen; });
      seen = job_;
      ++busy_;
      const Body &body = *body_;
      const int64_t count = count_;
      lock.unlock();
      take(body, count);
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  const int workers_;
  std::mutex use_, state_;
  std::condition_variable wake_, idle_;
  const Body *body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  uint64_t job_ = 0;
  int busy_ = 0;
};

// A pool is never destroyed: its threads may wait in it when the process ends. A forked process has no threads of its
// parent, so it starts its own.
Pool &pool() {
  static std::mutex mutex;
  static Pool *current = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (current == nullptr || owner != getpid() || current->workers() != threads - 1) {
    current = new Pool(threads - 1);
    owner = getpid();
  }
  return *current;
}

void parallel(int64_t count, const Body &body) {
  if (count > 1 && threads > 1) {
    pool().run(count, body);
  } else {
    for (int64_t i = 0; i < count; ++i) body(i);
  }
}

// ---- Blocks

constexpr int64_t BLOCK = 16384;  // numbers: two or three such tensors fit the second-level cache

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

using Range = std::function<void(int64_t, int64_t)>;

// Call `body(begin, end)` for the blocks of `count` items of `width` numbers each.
void for_blocks(int64_t count, int64_t width, const Range &body) {
  const int64_t step = std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, width));
  parallel(quotient_up(count, step), [&](int64_t block) {
    body(block * step, std::min(count, (block + 1) * step));
  });
}

// Set `sums` [width] to the sum of what `body(begin, end, partial)` adds to `partial` [width] for each block of rows.
void sum_blocks(int64_t rows, int64_t width, float *sums,
                const std::function<void(int64_t, int64_t, float *)> &body) {
  const int64_t step = std::max<int64_t>(1, 4 * BLOCK / width);
  const int64_t blocks = quotient_up(rows, step);
  std::vector<float> partial(blocks * width, 0.0f);
  parallel(blocks, [&](int64_t block) {
    body(block * step, std::min(rows, (block + 1) * step), partial.data() + block * width);
  });
  std::fill(sums, sums + width, 0.0f);
  for (int64_t block = 0; block < blocks; ++block) {
    const float *part = partial.data() + block * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) sums[i] += part[i];
  }
}

// ---- Functions of one number. Comparisons are written so that NaN passes through.

// e^x for x up to 88, and e^88 above; 0 where the result would be below the smallest normal number.
inline float exponential(float x) {
  const float limited = 88.0f < x ? 88.0f : x;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
  const float shifted = limited * 1.44269504f + shift;
  const float n = shifted - shift;
  const float r = (limited - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts; |r| <= 0.35
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return limited < -87.0f ? 0.0f : series * power;
}

// 1 / (1 - Phi(t)) for t >= 0 with the normal distribution function Phi: the eighth power of a polynomial, whose
// minimax fit is src/layers/cpu.py's.
inline float inverse_tail(float t) {
  float root = 2.95243054e-06f;
  root = root * t - 1.5148732e-05f;
  root = root * t + 9.05909618e-05f;
  root = root * t + 0.000162762503f;
  root = root * t + 0.00101025022f;
  root = root * t + 0.00941480129f;
  root = root * t + 0.0488255584f;
  root = root * t + 0.108761289f;
  root = root * t + 1.09050775f;
  root *= root;
  root *= root;
  return root * root;
}

struct ExactGelu {
  static inline float value(float x) {
    const float t = std::fabs(x);
    return (x > 0.0f ? x : 0.0f) - t / inverse_tail(t);
  }
  static inline float slope(float x) {
    const float tail = 1.0f / inverse_tail(std::fabs(x));
    const float phi = x > 0.0f ? 1.0f - tail : tail;
    return phi + x * exponential(-0.5f * x * x) * 0.398942280f;  // 1 / sqrt(2 pi)
  }
};

struct TanhGelu {  // 0.5 * (1 + tanh(u)) = 1 / (1 + e^(-2 u))
  static constexpr float LINEAR = 1.59576912f, CUBIC = 0.0713548163f;  // 2 sqrt(2 / pi), and 0.044715 times that
  static inline float gate(float x) { return 1.0f / (1.0f + exponential(-x * (CUBIC * x * x + LINEAR))); }
  static inline float value(float x) { return x * gate(x); }
  static inline float slope(float x) {
    const float g = gate(x);
    return g * (1.0f + x * (1.0f - g) * (3.0f * CUBIC * x * x + LINEAR));
  }
};

// ---- Rows

inline float sum_of(const float *x, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

struct Moments {
  float mean, scale;  // scale = 1 / sqrt(variance + eps)
};

inline Moments moments(const float *x, int64_t n, float eps) {
  const float mean = sum_of(x, n) / n;
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / std::sqrt(squares / n + eps)};
}

inline void softmax_row(const float *scores, const float *bias, float *p, int64_t n) {
  float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) {
    p[i] = scores[i] + bias[i];
    top = p[i] > top ? p[i] : top;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    p[i] = exponential(p[i] - top);
    sum += p[i];
  }
  const float scale = 1.0f / sum;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] *= scale;
}

// Set `ds` to the gradient of the scores, and add it to `sums`.
inline void softmax_row_gradient(const float *p, const float *dp, float *ds, float *sums, int64_t n) {
  float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
  for (int64_t i = 0; i < n; ++i) mean += p[i] * dp[i];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = p[i] * (dp[i] - mean);
    ds[i] = gradient;
    sums[i] += gradient;
  }
}

// ---- Arguments of a kernel

struct Arguments {
  void **data;
  int *ndims;
  int64_t **shapes;

  float *operator[](int i) const { return static_cast<float *>(data[i]); }
  int64_t axis(int i, int number) const { return shapes[i][number]; }
  int64_t last(int i) const { return shapes[i][ndims[i] - 1]; }
  int64_t size(int i) const {
    int64_t product = 1;
    for (int k = 0; k < ndims[i]; ++k) product *= shapes[i][k];
    return product;
  }
  int64_t rows(int i) const { return size(i) / last(i); }
};

template <typename Function>
void map_rows(const float *x, const float *row, float *y, int64_t rows, int64_t width) {
  for_blocks(rows, width, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin * width; m < end * width; m += width) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[m + i] = Function::value(x[m + i] + row[i]);
    }
  });
}

template <typename Function>
void map_rows_gradient(const Arguments &a) {
  const float *x = a[0], *row = a[1], *dy = a[2];
  float *dx = a[3];
  const int64_t width = a.last(0);
  sum_blocks(a.rows(0), width, a[4], [=](int64_t begin, int64_t end, float *drow) {
    for (int64_t m = begin * width; m < end * width; m += width) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float gradient = dy[m + i] * Function::slope(x[m + i] + row[i]);
        dx[m + i] = gradient;
        drow[i] += gradient;
      }
    }
  });
}

}  // namespace

#define KERNEL(name)                                                                                              \
  void name##_kernel(int count, const Arguments &a);                                                              \
  extern "C" int name(int count, void **data, int *ndims, int64_t **shapes, const char **, void *, void *) {      \
    name##_kernel(count, Arguments{data, ndims, shapes});                                                         \
    return 0;                                                                                                     \
  }                                                                                                               \
  void name##_kernel([[maybe_unused]] int count, const Arguments &a)

extern "C" void set_threads(int count) { threads = count; }

// x [M, D], row [D] -> GELU of x + row; and x, row, dy -> gradients of x and row
KERNEL(exact_gelu) { map_rows<ExactGelu>(a[0], a[1], a[2], a.rows(0), a.last(0)); }
KERNEL(exact_gelu_gradient) { map_rows_gradient<ExactGelu>(a); }
KERNEL(tanh_gelu) { map_rows<TanhGelu>(a[0], a[1], a[2], a.rows(0), a.last(0)); }
KERNEL(tanh_gelu_gradient) { map_rows_gradient<TanhGelu>(a); }

// x [M, D], row [D] -> x + row
KERNEL(add_row) {
  const float *x = a[0], *row = a[1];
  float *y = a[2];
  const int64_t width = a.last(0);
  for_blocks(a.rows(0), width, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[m * width + i] = x[m * width + i] + row[i];
    }
  });
}

// x [M, D] -> sum over the rows [D]
KERNEL(sum_rows) {
  const float *x = a[0];
  const int64_t width = a.last(0);
  sum_blocks(a.rows(0), width, a[1], [=](int64_t begin, int64_t end, float *sums) {
    for (int64_t m = begin; m < end; ++m) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sums[i] += x[m * width + i];
    }
  });
}

// x [..., D], weight [D], bias [D], eps [1] -> y
KERNEL(layer_norm) {
  const float *x = a[0], *weight = a[1], *bias = a[2];
  const float eps = a[3][0];
  float *y = a[4];
  const int64_t width = a.last(0);
  for_blocks(a.rows(0), width, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin * width; m < end * width; m += width) {
      const Moments row = moments(x + m, width, eps);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[m + i] = (x[m + i] - row.mean) * row.scale * weight[i] + bias[i];
    }
  });
}

// x, weight, eps, dy -> dx, gradients of weight and bias
KERNEL(layer_norm_gradient) {
  const float *x = a[0], *weight = a[1], *dy = a[3];
  const float eps = a[2][0];
  float *dx = a[4];
  const int64_t width = a.last(0);
  std::vector<float> both(2 * width);
  sum_blocks(a.rows(0), 2 * width, both.data(), [=](int64_t begin, int64_t end, float *sums) {
    float *dweight = sums, *dbias = sums + width;
    for (int64_t m = begin * width; m < end * width; m += width) {
      const Moments row = moments(x + m, width, eps);
      float along_mean = 0.0f, along_x = 0.0f;
#pragma omp simd reduction(+ : along_mean, along_x)
      for (int64_t i = 0; i < width; ++i) {
        const float normal = (x[m + i] - row.mean) * row.scale, g = dy[m + i] * weight[i];
        along_mean += g;
        along_x += g * normal;
      }
      along_mean /= width;
      along_x /= width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float normal = (x[m + i] - row.mean) * row.scale;
        dx[m + i] = row.scale * (dy[m + i] * weight[i] - along_mean - normal * along_x);
        dweight[i] += dy[m + i] * normal;
        dbias[i] += dy[m + i];
      }
    }
  });
  std::copy(both.begin(), both.begin() + width, a[5]);
  std::copy(both.begin() + width, both.end(), a[6]);
}

// A head's share of the position bias for some queries: a few kilobytes that serve the whole batch, so that the bias of all
// pairs is never in memory.
constexpr int64_t QUERIES = 16;

struct Scores {  // [B, H, N, N], cut into groups of `QUERIES` rows of one head
  int64_t batch, heads, queries, keys;

  int64_t groups() const { return heads * quotient_up(queries, QUERIES); }
  int64_t head(int64_t group) const { return group / quotient_up(queries, QUERIES); }
  int64_t begin(int64_t group) const { return group % quotient_up(queries, QUERIES) * QUERIES; }
  int64_t end(int64_t group) const { return std::min(queries, begin(group) + QUERIES); }
  int64_t offset(int64_t b, int64_t group) const { return ((b * heads + head(group)) * queries + begin(group)) * keys; }
  int64_t size(int64_t group) const { return (end(group) - begin(group)) * keys; }
};

inline Scores scores_of(const Arguments &a) { return {a.axis(0, 0), a.axis(0, 1), a.axis(0, 2), a.axis(0, 3)}; }

// scores [B, H, N, N] and, if there is a position bias, table [R, H] and index int32 [N * N] -> probabilities
KERNEL(softmax) {
  const bool biased = count == 4;
  const Scores shape = scores_of(a);
  const float *table = biased ? a[1] : nullptr, *scores = a[0];
  const int32_t *index = biased ? static_cast<const int32_t *>(a.data[2]) : nullptr;
  float *probabilities = a[count - 1];
  parallel(shape.groups(), [=](int64_t group) {
    const int64_t keys = shape.keys, size = shape.size(group);
    std::vector<float> bias(size, 0.0f);
    if (biased) {
      const int32_t *rows = index + shape.begin(group) * keys;
      for (int64_t i = 0; i < size; ++i) bias[i] = table[rows[i] * shape.heads + shape.head(group)];
    }
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t row = 0; row < size; row += keys) {
        const float *s = scores + shape.offset(b, group) + row, *shift = bias.data() + row;
        softmax_row(s, shift, probabilities + shape.offset(b, group) + row, keys);
      }
    }
  });
}

// probabilities, their gradient and, if there is a position bias, table and index -> gradients of scores and table
KERNEL(softmax_gradient) {
  const bool biased = count == 6;
  const Scores shape = scores_of(a);
  const float *p = a[0], *dp = a[1];
  const int32_t *index = biased ? static_cast<const int32_t *>(a.data[3]) : nullptr;
  float *ds = a[biased ? 4 : 2];
  const int64_t table_rows = biased ? a.axis(2, 0) : 0;
  std::vector<float> columns(shape.groups() * table_rows, 0.0f);
  parallel(shape.groups(), [&](int64_t group) {
    const int64_t keys = shape.keys, size = shape.size(group);
    std::vector<float> sums(size, 0.0f);
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t row = 0; row < size; row += keys) {
        const int64_t i = shape.offset(b, group) + row;
        softmax_row_gradient(p + i, dp + i, ds + i, sums.data() + row, keys);
      }
    }
    if (!biased) return;
    const int32_t *rows = index + shape.begin(group) * keys;
    float *column = columns.data() + group * table_rows;
    for (int64_t i = 0; i < size; ++i) column[rows[i]] += sums[i];
  });
  if (!biased) return;
  float *dtable = a[5];
  std::fill(dtable, dtable + a.size(5), 0.0f);
  for (int64_t group = 0; group < shape.groups(); ++group) {
    const float *column = columns.data() + group * table_rows;
    for (int64_t r = 0; r < table_rows; ++r) dtable[r * shape.heads + shape.head(group)] += column[r];
  }
}

// qkv [B, N, 3, H, W], bias of the queries [H * W] and of the values -> queries / sqrt(W), keys, values [B, H, N, W]
KERNEL(split_heads) {
  const float *qkv = a[0], *bias[3] = {a[1], nullptr, a[2]};
  float *parts[3] = {a[3], a[4], a[5]};
  const int64_t batch = a.axis(3, 0), heads = a.axis(3, 1), tokens = a.axis(3, 2), width = a.axis(3, 3);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for_blocks(batch * tokens, 3 * heads * width, [=](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tokens, n = item % tokens;
      for (int64_t part = 0; part < 3; ++part) {
        const float factor = part == 0 ? scale : 1.0f;
        for (int64_t h = 0; h < heads; ++h) {
          const float *x = qkv + ((item * 3 + part) * heads + h) * width;
          float *y = parts[part] + ((b * heads + h) * tokens + n) * width;
          if (part == 1) {
            std::memcpy(y, x, width * sizeof(float));
            continue;
          }
          const float *shift = bias[part] + h * width;
#pragma omp simd
          for (int64_t i = 0; i < width; ++i) y[i] = (x[i] + shift[i]) * factor;
        }
      }
    }
  });
}

// gradients of queries, keys and values -> gradients of qkv and of the biases of queries and values
KERNEL(split_heads_gradient) {
  const float *parts[3] = {a[0], a[1], a[2]};
  float *dqkv = a[3];
  const int64_t batch = a.axis(0, 0), heads = a.axis(0, 1), tokens = a.axis(0, 2), width = a.axis(0, 3);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  std::vector<float> all(3 * heads * width);
  sum_blocks(batch * tokens, 3 * heads * width, all.data(), [=](int64_t begin, int64_t end, float *sums) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tokens, n = item % tokens;
      for (int64_t part = 0; part < 3; ++part) {
        const float factor = part == 0 ? scale : 1.0f;
        for (int64_t h = 0; h < heads; ++h) {
          const float *dy = parts[part] + ((b * heads + h) * tokens + n) * width;
          float *dx = dqkv + ((item * 3 + part) * heads + h) * width, *sum = sums + (part * heads + h) * width;
#pragma omp simd
          for (int64_t i = 0; i < width; ++i) {
            const float gradient = dy[i] * factor;
            dx[i] = gradient;
            sum[i] += gradient;
          }
        }
      }
    }
  });
  std::copy(all.begin(), all.begin() + heads * width, a[4]);
  std::copy(all.end() - heads * width, all.end(), a[5]);
}

// x [B, M, N, W] -> [B, N, M, W]
KERNEL(swap_axes) {
  const float *x = a[0];
  float *y = a[1];
  const int64_t outer = a.axis(0, 1), inner = a.axis(0, 2), width = a.axis(0, 3);
  for_blocks(a.axis(0, 0) * inner, outer * width, [=](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / inner, n = item % inner;
      for (int64_t m = 0; m < outer; ++m) {
        std::memcpy(y + (item * outer + m) * width, x + ((b * outer + m) * inner + n) * width, width * sizeof(float));
      }
    }
  });
}

// x, branch [B, N, D], bias, gamma [D], factors [B] -> x + factors * gamma * (branch + bias)
KERNEL(residual) {
  const float *x = a[0], *branch = a[1], *bias = a[2], *gamma = a[3], *factors = a[4];
  float *y = a[5];
  const int64_t tokens = a.axis(0, 1), width = a.axis(0, 2);
  for_blocks(a.rows(0), width, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float factor = factors[m / tokens];
      const int64_t row = m * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[row + i] = x[row + i] + (branch[row + i] + bias[i]) * gamma[i] * factor;
    }
  });
}

// branch, bias, gamma, factors, dy -> gradients of branch, bias and gamma
KERNEL(residual_gradient) {
  const float *branch = a[0], *bias = a[1], *gamma = a[2], *factors = a[3], *dy = a[4];
  float *dbranch = a[5];
  const int64_t tokens = a.axis(0, 1), width = a.axis(0, 2);
  std::vector<float> both(2 * width);
  sum_blocks(a.rows(0), 2 * width, both.data(), [=](int64_t begin, int64_t end, float *sums) {
    float *dbias = sums, *dgamma = sums + width;
    for (int64_t m = begin; m < end; ++m) {
      const float factor = factors[m / tokens];
      const int64_t row = m * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float scaled = dy[row + i] * factor, gradient = scaled * gamma[i];
        dbranch[row + i] = gradient;
        dbias[i] += gradient;
        dgamma[i] += scaled * (branch[row + i] + bias[i]);
      }
    }
  });
  std::copy(both.begin(), both.begin() + width, a[6]);
  std::copy(both.begin() + width, both.end(), a[7]);
}

// src/layers/counter_based_random.py's finalizer of MurmurHash3
inline uint32_t mix(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 13)) * 0xC2B2AE35u;
  return h ^ (h >> 16);
}

// x [B, ...], key int32 [B], numbers int32 [2] (of the stream; keep below this number of 2^24), scale [1]
// -> x * scale for the samples that are kept, 0 * x for the others
KERNEL(drop_path) {
  const float *x = a[0], scale = a[3][0];
  const int32_t *key = static_cast<const int32_t *>(a.data[1]), *numbers = static_cast<const int32_t *>(a.data[2]);
  float *y = a[4];
  const int64_t width = a.size(0) / a.axis(0, 0);
  for_blocks(a.axis(0, 0), width, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const uint32_t bits = mix(mix(static_cast<uint32_t>(key[b]) ^ static_cast<uint32_t>(numbers[0]))) >> 8;
      const float factor = static_cast<int32_t>(bits) < numbers[1] ? scale : 0.0f;
      for (int64_t i = b * width; i < (b + 1) * width; ++i) y[i] = x[i] * factor;
    }
  });
}

// ---- The optimizer. One call takes all weights of the network.

struct Piece {  // `size` numbers from `begin` on of the tensor `number`
  int number;
  int64_t begin, size;
};

// The tensors `first` to `first + count - 1`, cut into pieces.
std::vector<Piece> pieces(const Arguments &a, int first, int count) {
  std::vector<Piece> all;
  for (int number = 0; number < count; ++number) {
    const int64_t size = a.size(first + number);
    for (int64_t begin = 0; begin < size; begin += 2 * BLOCK) {
      all.push_back({number, begin, std::min(2 * BLOCK, size - begin)});
    }
  }
  return all;
}

// any number of tensors -> sum of all squares [1], infinite above the largest float
KERNEL(square_sum) {
  const std::vector<Piece> all = pieces(a, 0, count - 1);
  std::vector<double> sums(all.size());
  parallel(all.size(), [&](int64_t i) {
    const float *x = a[all[i].number] + all[i].begin;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < all[i].size; ++k) sum += static_cast<double>(x[k]) * x[k];
    sums[i] = sum;
  });
  double sum = 0.0;
  for (double part : sums) sum += part;
  a[count - 1][0] = static_cast<float>(sum);
}

struct AdamStep {
  float beta1, beta2, eps, factor, root;  // root: of the bias correction of the second moment, inverted
};

void adamw_piece(const AdamStep &s, float rate, float keep, const Piece &piece, float *w, float *m, float *v,
                 const float *gradient) {
  const int64_t end = piece.begin + piece.size;
#pragma omp simd
  for (int64_t i = piece.begin; i < end; ++i) {
    const float g = gradient[i] * s.factor;
    const float first = m[i] + (1.0f - s.beta1) * (g - m[i]);
    const float second = s.beta2 * v[i] + (1.0f - s.beta2) * g * g;
    m[i] = first;
    v[i] = second;
    w[i] = w[i] * keep - rate * first / (std::sqrt(second) * s.root + s.eps);
  }
}

// settings [3] (beta1, beta2, eps), factor of each weight's learning rate and of its decay [n]; scalars: learning rate,
// weight decay, factor of the gradients, step (int32, from 1 on), applied (bool); then n weights, n first moments,
// n second moments, n gradients -> 0 [1]. Weights and moments change in place if `applied`.
KERNEL(adamw) {
  constexpr int FIRST = 8;
  const int n = (count - FIRST - 1) / 4;
  a[count - 1][0] = 0.0f;
  if (!*static_cast<const bool *>(a.data[7])) return;
  const double t = *static_cast<const int32_t *>(a.data[6]);
  const double correction = -std::expm1(t * std::log(static_cast<double>(a[0][0])));
  const double root = std::sqrt(-std::expm1(t * std::log(static_cast<double>(a[0][1]))));
  const AdamStep step{a[0][0], a[0][1], a[0][2], a[5][0], static_cast<float>(1.0 / root)};
  const std::vector<Piece> all = pieces(a, FIRST, n);
  parallel(all.size(), [&](int64_t i) {
    const int number = all[i].number, weight = FIRST + number;
    const double rate = static_cast<double>(a[3][0]) * a[1][number];
    const float keep = static_cast<float>(1.0 - rate * a[4][0] * a[2][number]);
    adamw_piece(step, static_cast<float>(rate / correction), keep, all[i], a[weight], a[weight + n], a[weight + 2 * n],
                a[weight + 3 * n]);
  });
}
