// A 3x3 convolution by Winograd's F(2x2, 3x3), forwards and back, with a maximum over 2x2 on the
// spot. Chapter 43 explains it section by section; each begins with its name in brackets.
#include "vectors.h"

// [windows]
using at::native::cpublas::brgemm;
struct Map {  // n images of h x w, in th x tw tiles each
  int64_t n, h, w, th, tw;
  int64_t tiles() const { return n * th * tw; }
};
template <class T>
constexpr bool paired = std::is_same_v<T, BFloat16>;
template <class F>
inline void taken_apart(F& a, F& b, F& c, F& d) {
  F p = a - c, q = b + c, r = c - b, s = b - d;
  a = p;
  b = q;
  c = r;
  d = s;
}
template <class F>
inline void apart_t(F& a, F& b, F& c, F& d) {
  F p = a, q = b - c + d, r = b + c - a, s = -d;
  a = p;
  b = q;
  c = r;
  d = s;
}

template <class T>
inline void window(const T** p, const T* x, const T* zeros, int64_t tile, const Map& m, int64_t C) {
  int64_t tx = tile % m.tw, ty = tile / m.tw % m.th, n = tile / (m.tw * m.th);
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      int64_t r = 2 * ty - 1 + i, c = 2 * tx - 1 + j;
      p[4 * i + j] =
          r < 0 || c < 0 || r >= m.h || c >= m.w ? zeros : x + ((n * m.h + r) * m.w + c) * C;
    }
}
template <class T, int W>
inline void factors(T* out, int64_t step, const T** p, int64_t C) {  // of one tile, 16 times C
  using V = Vec<W>;
  typename V::F d[16];
  for (int64_t c = 0; c < C; c += W) {
    for (int k = 0; k < 16; k++) d[k] = V::load(p[k] + c);
    for (int j = 0; j < 4; j++) taken_apart(d[j], d[4 + j], d[8 + j], d[12 + j]);
    for (int i = 0; i < 16; i += 4) taken_apart(d[i], d[i + 1], d[i + 2], d[i + 3]);
    for (int k = 0; k < 16; k++) V::store(out + k * step + c, d[k]);
  }
}

// [filters]
template <class F>
inline void filter_apart(F* out, int step, F a, F b, F c) {
  F even = (a + c) * .5f, odd = b * .5f;
  out[0] = a;
  out[step] = even + odd;
  out[2 * step] = even - odd;
  out[3 * step] = c;
}
// w: K,3,3,C; u: 16 matrices C,K, or K,C if transposed
template <class T, int W>
void pack(T* u, const float* w, int64_t K, int64_t C, bool transposed) {
  using V = Vec<W>;
  at::parallel_for(0, K / 2, 8, [&](int64_t from, int64_t to) {
    typename V::F x[9], rows[12], d[2][16];
    alignas(64) T lane[W];
    for (int64_t k = 2 * from; k < 2 * to; k += 2)
      for (int64_t c = 0; c < C; c += W) {
        for (int s = 0; s < 2; s++) {
          for (int a = 0; a < 9; a++) x[a] = V::load(w + ((k + s) * 9 + a) * C + c);
          for (int j = 0; j < 3; j++) filter_apart(rows + j, 3, x[j], x[3 + j], x[6 + j]);
          for (int i = 0; i < 4; i++)
            filter_apart(d[s] + 4 * i, 1, rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]);
        }
        for (int q = 0; q < 16; q++) {
          T* o = u + q * C * K;
          if (transposed && paired<T>) {
            auto both = V::pair(o, d[0][q], d[1][q]);
            memcpy(o + k * C + 2 * c, &both, sizeof both);
            continue;
          }
          for (int s = 0; s < 2; s++) {
            if (transposed) {
              V::store(o + (k + s) * C + c, d[s][q]);
              continue;
            }
            V::store(lane, d[s][q]);
            if (paired<T>)
              for (int l = 0; l < W; l += 2) memcpy(o + ((c + l) / 2 * K + k + s) * 2, lane + l, 4);
            else
              for (int l = 0; l < W; l++) o[(c + l) * K + k + s] = lane[l];
          }
        }
      }
  });
}

// [forward]
inline int64_t block_of(int64_t bytes) {
  return std::min<int64_t>(128, std::max<int64_t>(32, 50000 / bytes / 16 * 16));
}

template <int W>
inline void together(typename Vec<W>::F* y, const float* m,
                     int64_t step) {  // 16 products -> 4 outputs
  using V = Vec<W>;
  typename V::F a[4], b[4];
  for (int j = 0; j < 4; j++) {
    auto m0 = V::load(m + j * step), m1 = V::load(m + (4 + j) * step),
         m2 = V::load(m + (8 + j) * step), m3 = V::load(m + (12 + j) * step);
    a[j] = m0 + m1 + m2;
    b[j] = m1 - m2 - m3;
  }
  y[0] = a[0] + a[1] + a[2];
  y[1] = a[1] - a[2] - a[3];
  y[2] = b[0] + b[1] + b[2];
  y[3] = b[1] - b[2] - b[3];
}
template <class T, int WC, int W>
void forward(T* y, uint8_t* which, const T* x, const T* u, const Map& m, int64_t C, int64_t K) {
  using V = Vec<W>;
  using F = typename V::F;
  using I = typename V::I;
  int64_t block = block_of(2 * C + 4 * K), tiles = m.tiles();
  std::vector<T> zeros(C, T(0));
  at::parallel_for(0, (tiles + block - 1) / block, 1, [&](int64_t from, int64_t to) {
    std::vector<T> v(16 * block * C);
    std::vector<float> o(16 * block * K);
    const T* p[16];
    F s[4];
    for (int64_t first = from * block; first < std::min(to * block, tiles); first += block) {
      int64_t rows = std::min(block, tiles - first);
      for (int64_t t = 0; t < rows; t++) {
        window(p, x, zeros.data(), first + t, m, C);
        factors<T, WC>(v.data() + t * C, block * C, p, C);
      }
      for (int q = 0; q < 16; q++)
        brgemm(rows, K, C, C, K, K, false, v.data() + q * block * C, u + q * C * K,
               o.data() + q * block * K, paired<T>);
      for (int64_t t = 0; t < rows; t++)
        for (int64_t k = 0, tile = first + t; k < K; k += W) {
          together<W>(s, o.data() + t * K + k, block * K);
          if (which) {
            auto up = s[1] > s[0], down = s[3] > s[2];
            F a = up ? s[1] : s[0], b = down ? s[3] : s[2];
            V::store(y + tile * K + k, b > a ? b : a);
            V::store(which + tile * K + k, (I)(b > a ? 2 - down : -up));
          } else {
            int64_t r = tile / m.tw % m.th * 2, c = tile % m.tw * 2;
            T* at = y + ((tile / (m.tw * m.th) * m.h + r) * m.w + c) * K + k;
            for (int e = 0; e < 4; e++)
              if (r + e / 2 < m.h && c + e % 2 < m.w)
                V::store(at + (e / 2 * m.w + e % 2) * K, s[e]);
          }
        }
    }
    if (paired<T>) at::native::cpublas::brgemm_release();
  });
}

// [to inputs]
template <class T>
struct Gradient {
  const T* g;
  const uint8_t* which;
  const T* zeros;
  Map m;
  int64_t K;
};
template <class T>
struct Place {
  const T* p[4];
  const uint8_t* which;
};
template <class T>
inline Place<T> place(const Gradient<T>& g, int64_t tile) {
  const Map& m = g.m;
  if (g.which) return {{g.g + tile * g.K}, g.which + tile * g.K};
  int64_t c = tile % m.tw * 2, r = tile / m.tw % m.th * 2, n = tile / (m.tw * m.th);
  Place<T> o{{}, nullptr};
  for (int e = 0; e < 4; e++)
    o.p[e] = r + e / 2 < m.h && c + e % 2 < m.w
                 ? g.g + ((n * m.h + r + e / 2) * m.w + c + e % 2) * g.K
                 : g.zeros;
  return o;
}
constexpr float ABOVE[] = {1, 1, 1, 0}, BELOW[] = {0, 1, -1, -1};  // the columns of A
template <class T, int W>
inline void spread(typename Vec<W>::F* e, const Place<T>& o, int64_t k, int row) {
  using V = Vec<W>;
  using F = typename V::F;
  float above = ABOVE[row], below = BELOW[row];
  if (o.which) {
    auto i = V::load(o.which + k);
    auto right = (i & 1) != 0;
    F none = {}, g = V::load(o.p[0] + k) * (i > 1 ? none + below : none + above);
    e[0] = right ? none : g;
    e[1] = g;
    e[2] = right ? -g : g;
    e[3] = right ? -g : none;
  } else {
    F l = V::load(o.p[0] + k) * above + V::load(o.p[2] + k) * below,
      r = V::load(o.p[1] + k) * above + V::load(o.p[3] + k) * below;
    e[0] = l;
    e[1] = l + r;
    e[2] = l - r;
    e[3] = -r;
  }
}
template <class T, int W>
void add_window(float* at, int64_t row, const float* v, int64_t step, int64_t C) {
  using V = Vec<W>;
  typename V::F e[16];
  for (int64_t c = 0; c < C; c += W) {
    for (int q = 0; q < 16; q++) e[q] = V::load(v + q * step + c);
    for (int j = 0; j < 4; j++) apart_t(e[j], e[4 + j], e[8 + j], e[12 + j]);
    for (int i = 0; i < 16; i += 4) apart_t(e[i], e[i + 1], e[i + 2], e[i + 3]);
    for (int q = 0; q < 16; q++) {
      float* z = at + (q / 4 * row + q % 4) * C + c;
      V::store(z, V::load(z) + e[q]);
    }
  }
}

// [back]
template <class T, int W, int WK>
void to_input(T* dx, const Gradient<T>& g, const T* u, int64_t C) {
  using V = Vec<W>;
  using VK = Vec<WK>;
  const Map& m = g.m;
  int64_t K = g.K, block = block_of(2 * K + 4 * C), each = m.th * m.tw,
          group = std::max<int64_t>(1, block / each), high = 2 * m.th + 2, wide = 2 * m.tw + 2;
  at::parallel_for(0, (m.n + group - 1) / group, 1, [&](int64_t from, int64_t to) {
    std::vector<T> d(16 * block * K);
    std::vector<float> v(16 * block * C), image(group * high * wide * C);
    typename VK::F e[4];
    for (int64_t n0 = from * group; n0 < std::min(to * group, m.n); n0 += group) {
      int64_t n1 = std::min(n0 + group, m.n);
      std::fill(image.begin(), image.end(), 0.f);
      for (int64_t first = n0 * each; first < n1 * each; first += block) {
        int64_t rows = std::min(block, n1 * each - first);
        for (int64_t t = 0; t < rows; t++) {
          auto o = place(g, first + t);
          for (int64_t k = 0; k < K; k += WK)
            for (int i = 0; i < 4; i++) {
              spread<T, WK>(e, o, k, i);
              for (int j = 0; j < 4; j++)
                VK::store(d.data() + ((4 * i + j) * block + t) * K + k, e[j]);
            }
        }
        for (int q = 0; q < 16; q++)
          brgemm(rows, C, K, K, C, C, false, d.data() + q * block * K, u + q * C * K,
                 v.data() + q * block * C, paired<T>);
        for (int64_t t = 0; t < rows; t++) {
          int64_t tile = first + t,
                  at =
                      ((tile / each - n0) * high + tile / m.tw % m.th * 2) * wide + tile % m.tw * 2;
          add_window<T, W>(image.data() + at * C, wide, v.data() + t * C, block * C, C);
        }
      }
      for (int64_t n = n0; n < n1; n++)
        for (int64_t r = 0; r < m.h; r++)
          for (int64_t s = 0; s < m.w; s++) {
            const float* z = image.data() + (((n - n0) * high + r + 1) * wide + s + 1) *
                                                C;  // what no tile has seen gets nothing
            for (int64_t c = 0; c < C; c += W)
              V::store(dx + ((n * m.h + r) * m.w + s) * C + c,
                       r + 1 < high && s + 1 < wide ? V::load(z + c) : typename V::F{});
          }
    }
    if (paired<T>) at::native::cpublas::brgemm_release();
  });
}

// [to filters]
template <int W>
inline void turned(typename Vec<W>::U* r) {  // a square of W x W numbers, rows to columns
  for (int s = 1; s < W; s *= 2) {
    typename Vec<W>::U low, high;
    for (int l = 0; l < W; l++) {
      low[l] = l & s ? W + l - s : l;
      high[l] = l & s ? W + l : l + s;
    }
    for (int i = 0; i < W; i++)
      if (!(i & s)) {
        auto a = r[i], b = r[i + s];
        r[i] = __builtin_shuffle(a, b, low);
        r[i + s] = __builtin_shuffle(a, b, high);
      }
  }
}
template <class T, int W, int WK>
struct Walk {  // one block of tiles: where their inputs and gradients lie, and their factors for a
               // row
  using V = Vec<W>;
  using VK = Vec<WK>;
  static constexpr int P = paired<T> ? 2 : 1;  // tiles in a unit of 32 bits
  int64_t C, K, deep, units = deep / P;
  std::vector<uint32_t> a{}, b{};
  std::vector<Place<T>> at{};
  std::vector<const T*> p{};
  void go(const Gradient<T>& g, const T* x, int64_t tile) {
    a.resize(4 * C * units);
    b.resize(4 * K * units);
    at.resize(deep);
    p.resize(16 * deep);
    for (int64_t t = 0; t < deep; t++, tile++) {
      if (tile < g.m.tiles()) {
        at[t] = place(g, tile);
        window(&p[16 * t], x, g.zeros, tile, g.m, C);
      } else {
        at[t] = {{g.zeros, g.zeros, g.zeros, g.zeros}, nullptr};
        std::fill_n(&p[16 * t], 16, g.zeros);
      }
    }
  }
  void inputs(int i) {  // a: 4,C,units
    typename V::F d[2][4];
    typename V::U square[4][W];
    float up = i == 2 ? -1 : 1, down = i == 0 || i == 3 ? -1 : 1;
    for (int64_t unit = 0; unit < units; unit += W)
      for (int64_t c = 0; c < C; c += W) {
        for (int t = 0; t < W; t++) {
          for (int s = 0; s < P; s++) {
            const T **q = &p[16 * ((unit + t) * P + s)], **above = q + (i ? 4 : 0),
                    **below = q + (i == 3 ? 12 : 8);
            for (int j = 0; j < 4; j++)
              d[s][j] = V::load(above[j] + c) * up + V::load(below[j] + c) * down;
            taken_apart(d[s][0], d[s][1], d[s][2], d[s][3]);
          }
          for (int j = 0; j < 4; j++) square[j][t] = V::pair((T*)nullptr, d[0][j], d[P - 1][j]);
        }
        for (int j = 0; j < 4; j++) {
          turned<W>(square[j]);
          for (int l = 0; l < W; l++)
            memcpy(&a[(j * C + c + l) * units + unit], &square[j][l], 4 * W);
        }
      }
  }

  // [sums]
  void gradients(int i) {  // b: 4,units,K
    typename VK::F e[2][4];
    for (int64_t t = 0; t < units; t++)
      for (int64_t k = 0; k < K; k += WK) {
        for (int s = 0; s < P; s++) spread<T, WK>(e[s], at[t * P + s], k, i);
        for (int j = 0; j < 4; j++) {
          auto u = VK::pair((T*)nullptr, e[0][j], e[P - 1][j]);
          memcpy(&b[(j * units + t) * K + k], &u, sizeof u);
        }
      }
  }
};
template <class T, int W, int WK>
void to_filters(float* du, int64_t parts, bool small, const Gradient<T>& g, const T* x, int64_t C) {
  int64_t K = g.K, deep = K * C <= 4096 ? 256 : 128, blocks = (g.m.tiles() + deep - 1) / deep,
          jobs = small ? 1 : 4;  // du: parts,16,C,K
  at::parallel_for(0, jobs * parts, 1, [&](int64_t from, int64_t to) {
    Walk<T, W, WK> walk{C, K, deep};
    for (int64_t job = from; job < to; job++) {
      int64_t part = job / jobs, begin = part * blocks / parts, end = (part + 1) * blocks / parts;
      if (begin == end) std::fill_n(du + part * 16 * K * C, 16 * K * C, 0.f);
      for (int64_t block = begin; block < end; block++) {
        walk.go(g, x, block * deep);
        for (int i = small ? 0 : job % 4; i < (small ? 4 : job % 4 + 1); i++) {
          walk.inputs(i);
          walk.gradients(i);
          for (int j = 0; j < 4; j++)
            brgemm(C, K, deep, deep, K, K, block > begin, (const T*)&walk.a[j * C * walk.units],
                   (const T*)&walk.b[j * walk.units * K], du + ((part * 4 + i) * 4 + j) * K * C,
                   paired<T>);
        }
      }
    }
    if (paired<T>) at::native::cpublas::brgemm_release();
  });
}

// [unpack]
template <class F>
inline void filter_together(F* out, int step, F a, F b, F c, F d) {
  F e = (b + c) * .5f;
  out[0] = a + e;
  out[step] = (b - c) * .5f;
  out[2 * step] = e + d;
}
void unpack(float* dw, const float* du, int64_t parts, int64_t K,
            int64_t C) {  // parts,16,C,K -> K,3,3,C
  using V = Vec<8>;
  at::parallel_for(0, K / 8, 2, [&](int64_t from, int64_t to) {
    V::F d[16], t[12], o[9];
    V::U square[9][8];
    for (int64_t k = 8 * from; k < 8 * to; k += 8)
      for (int64_t c = 0; c < C; c += 8) {
        for (int64_t l = 0; l < 8; l++) {
          for (int q = 0; q < 16; q++) {
            d[q] = V::F{};
            for (int64_t s = 0; s < parts; s++)
              d[q] += V::load(du + ((s * 16 + q) * C + c + l) * K + k);
          }
          for (int j = 0; j < 4; j++)
            filter_together(t + j, 4, d[j], d[4 + j], d[8 + j], d[12 + j]);
          for (int i = 0; i < 3; i++)
            filter_together(o + 3 * i, 1, t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
          for (int q = 0; q < 9; q++) square[q][l] = (V::U)o[q];
        }
        for (int q = 0; q < 9; q++) {
          turned<8>(square[q]);
          for (int l = 0; l < 8; l++) memcpy(dw + ((k + l) * 9 + q) * C + c, &square[q][l], 32);
        }
      }
  });
}

// [door]
Map map_of(const Tensor& x, bool pool) {
  int64_t h = x.size(2), w = x.size(3), more = !pool;
  return {x.size(0), h, w, (h + more) / 2, (w + more) / 2};
}
template <class T, int WC, int WK>
std::tuple<Tensor, Tensor> run(const Tensor& x, const Tensor& w, bool pool) {
  Map m = map_of(x, pool);
  int64_t C = x.size(1), K = w.size(0);
  Tensor u = at::empty({16, C, K}, x.options()),
         y = at::empty({m.n, K, pool ? m.th : m.h, pool ? m.tw : m.w},
                       x.options().memory_format(at::MemoryFormat::ChannelsLast));
  Tensor which = pool ? at::empty_like(y, y.options().dtype(at::kByte))
                      : at::empty({0}, x.options().dtype(at::kByte));
  pack<T, WC>(u.data_ptr<T>(), w.data_ptr<float>(), K, C, false);
  forward<T, WC, WK>(y.data_ptr<T>(), pool ? which.data_ptr<uint8_t>() : nullptr, x.data_ptr<T>(),
                     u.data_ptr<T>(), m, C, K);
  return {y, which};
}
template <class T, int WC, int WK>
std::tuple<Tensor, Tensor> back(const Tensor& g, const Tensor& which, const Tensor& x,
                                const Tensor& w, bool pool, bool wants_x, bool wants_w) {
  Map m = map_of(x, pool);
  int64_t C = x.size(1), K = w.size(0);
  Tensor dx = at::empty_like(wants_x ? x : x.slice(0, 0, 0)),
         dw = at::empty_like(wants_w ? w : w.slice(0, 0, 0));
  std::vector<T> zeros(std::max(C, K), T(0));
  Gradient<T> gradient{g.data_ptr<T>(), pool ? which.data_ptr<uint8_t>() : nullptr, zeros.data(), m,
                       K};
  if (wants_x) {
    Tensor u = at::empty({16, K, C}, x.options());
    pack<T, WC>(u.data_ptr<T>(), w.data_ptr<float>(), K, C, true);
    to_input<T, WC, WK>(dx.data_ptr<T>(), gradient, u.data_ptr<T>(), C);
  }
  if (wants_w) {
    bool small = K * C <= 16384;
    int64_t threads = at::get_num_threads(), parts = small ? threads : (threads + 3) / 4;
    Tensor du =
        at::empty({parts, 16, C, K}, w.options().memory_format(at::MemoryFormat::Contiguous));
    to_filters<T, WC, WK>(du.data_ptr<float>(), parts, small, gradient, x.data_ptr<T>(), C);
    unpack(dw.data_ptr<float>(), du.data_ptr<float>(), parts, K, C);
  }
  return {dx, dw};
}

// [names]
#define WIDTHS(f, T, ...) \
  (x.size(1) % 16 ? (w.size(0) % 16 ? f<T, 8, 8>(__VA_ARGS__) : f<T, 8, 16>(__VA_ARGS__)) \
                  : (w.size(0) % 16 ? f<T, 16, 8>(__VA_ARGS__) : f<T, 16, 16>(__VA_ARGS__)))
#define CHOOSE(f, ...) \
  (x.scalar_type() == at::kFloat ? WIDTHS(f, float, __VA_ARGS__) : WIDTHS(f, BFloat16, __VA_ARGS__))
std::tuple<Tensor, Tensor> winograd(const Tensor& x, const Tensor& w, bool pool) {
  return CHOOSE(run, x, w, pool);
}
std::tuple<Tensor, Tensor> winograd_backward(const Tensor& g, const Tensor& which, const Tensor& x,
                                             const Tensor& w, bool pool, bool wants_x,
                                             bool wants_w) {
  return CHOOSE(back, g, which, x, w, pool, wants_x, wants_w);
}
}  // namespace
TORCH_LIBRARY(cifar_nb, m) {
  m.def("winograd(Tensor x, Tensor w, bool pool) -> (Tensor, Tensor)", &winograd);
  m.def(
      "winograd_backward(Tensor g, Tensor which, Tensor x, Tensor w, bool pool, bool wants_x, bool "
      "wants_w) -> (Tensor, Tensor)",
      &winograd_backward);
}
