// Batch norm in training, an addition and an activation in one walk over the maps, forwards and
// back. Chapter 44 explains it section by section; each begins with its name in brackets.
#include "vectors.h"

// [two sums]
enum Bend { NONE, RELU, GELU };
struct Plane {
  int64_t rows, C, fold;
};  // a map in memory: rows of C numbers, in which each channel stands `fold` times
Plane plane_of(const Tensor& x) {
  Plane p{x.numel() / x.size(1), x.size(1), 1};
  while (p.C < 64 && p.rows % 2 == 0) {
    p.rows /= 2;
    p.C *= 2;
    p.fold *= 2;
  }
  return p;
}
std::vector<float> repeated(const float* p, const Plane& m) {
  std::vector<float> v(m.C);
  for (int64_t i = 0; i < m.C; i++) v[i] = p[i % (m.C / m.fold)];
  return v;
}
// f<N>(from, to, c, s): into s the two sums of N vectors of channels from c on, over the rows
// from..to; returns 2, C
template <int W, class F>
std::vector<double> two_sums(const Plane& p, F f) {
  int64_t threads = at::get_num_threads(), step = std::max<int64_t>(1, 16384 / p.C),
          all = (p.rows + step - 1) / step, C = p.C / p.fold;
  std::vector<std::vector<double>> part(threads, std::vector<double>(2 * p.C, 0.));
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    float s[2][4 * W];
    for (int64_t t = first; t < last; t++)
      for (int64_t piece = t * all / threads; piece < (t + 1) * all / threads; piece++)
        for (int64_t c = 0, n, from = piece * step, to = std::min(p.rows, from + step); c < p.C;
             c += n * W) {
          n = p.C - c >= 4 * W ? 4 : 1;
          if (n == 4) f.template operator()<4>(from, to, c, s);
          else f.template operator()<1>(from, to, c, s);
          for (int k = 0; k < 2; k++)
            for (int64_t l = 0; l < n * W; l++) part[t][k * p.C + c + l] += s[k][l];
        }
  });
  std::vector<double> out(2 * C, 0.);
  for (auto& s : part)
    for (int k = 0; k < 2; k++)
      for (int64_t c = 0; c < p.C; c++) out[k * C + c % C] += s[k * p.C + c];
  return out;
}

// [bends]
// 1/2 + z times a polynomial in z * z, up to |z| = 4: the share of the normal distribution below z,
// and the slope of GELU. By least squares, which chapter 44 does again.
constexpr float CDF[] = {3.989258088e-01f,  -6.641648612e-02f, 9.881116001e-03f,
                         -1.134981379e-03f, 9.907549288e-05f,  -6.310149208e-06f,
                         2.723950835e-07f,  -7.024479043e-09f, 8.086129603e-11f};
constexpr float SLOPE[] = {7.976487094e-01f,  -2.648955815e-01f, 5.849494933e-02f,
                           -8.726306218e-03f, 9.086475579e-04f,  -6.504754953e-05f,
                           3.030974286e-06f,  -8.218433948e-08f, 9.783813495e-10f};
template <class F, size_t N>
inline F horner(const float (&c)[N], F s) {
  F out = F{} + c[N - 1];
  for (int i = N - 2; i >= 0; i--) out = c[i] + s * out;
  return out;
}
template <class F>
inline F inside(F z) {
  F four = F{} + 4.f;
  z = z > four ? four : z;
  return z < -four ? -four : z;
}
template <class F>
inline F cdf(F z) {
  z = inside(z);
  F s = z * z;
  return 0.5f + z * horner(CDF, s);
}
template <class F>
inline F slope(F z) {
  z = inside(z);
  F s = z * z;
  return 0.5f + z * horner(SLOPE, s);
}
template <int A, class F>
inline F bent(F z) {
  if constexpr (A == GELU) return z * cdf(z);
  else if constexpr (A == RELU) return z <= 0.f ? F{} : z;
  else return z;
}
template <int A, class F>
inline F back(F g, F z) {
  if constexpr (A == GELU) return g * slope(z);
  else if constexpr (A == RELU) return z <= 0.f ? F{} : g;
  else return g;
}

// [forwards]
template <class T, int W, int A>
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& weight,
                                           const Tensor& bias, const Tensor& add, double eps) {
  using V = Vec<W>;
  using F = typename V::F;
  Plane p = plane_of(x);
  int64_t C = x.size(1);
  bool adds = add.numel();
  double n = x.numel() / C;
  Tensor y = at::empty_like(x), mean = at::empty({C}, weight.options()),
         var = at::empty({C}, weight.options());
  const T *xs = x.data_ptr<T>(), *as = adds ? add.data_ptr<T>() : nullptr;
  T* ys = y.data_ptr<T>();
  std::vector<float> pivot(p.C), scale(C);
  for (int64_t c = 0; c < p.C; c++) pivot[c] = xs[c % C];
  auto sums = two_sums<W>(p, [&]<int N>(int64_t from, int64_t to, int64_t c, float (*s)[4 * W]) {
    F a[N] = {}, b[N] = {}, m[N];
    for (int k = 0; k < N; k++) m[k] = V::load(&pivot[c + k * W]);
    for (int64_t r = from; r < to; r++)
      for (int k = 0; k < N; k++) {
        F v = V::load(xs + r * p.C + c + k * W) - m[k];
        a[k] += v;
        b[k] += v * v;
      }
    for (int k = 0; k < N; k++) {
      V::store(s[0] + k * W, a[k]);
      V::store(s[1] + k * W, b[k]);
    }
  });
  for (int64_t c = 0; c < C; c++) {
    double m = sums[c] / n, v = std::max(0., sums[C + c] / n - m * m);
    m += pivot[c];
    mean.data_ptr<float>()[c] = m;
    var.data_ptr<float>()[c] = v;
    scale[c] = weight.data_ptr<float>()[c] / std::sqrt(v + eps);
  }
  auto sc = repeated(scale.data(), p), m = repeated(mean.data_ptr<float>(), p),
       b = repeated(bias.data_ptr<float>(), p);
  at::parallel_for(0, p.rows, std::max<int64_t>(1, 32768 / p.C), [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++)
      for (int64_t c = 0, i = r * p.C; c < p.C; c += W) {
        F z = (V::load(xs + i + c) - V::load(&m[c])) * V::load(&sc[c]) + V::load(&b[c]);
        if (adds) z += V::load(as + i + c);
        V::store(ys + i + c, bent<A>(z));
      }
  });
  return {y, mean, var};
}

// [and back]
template <class T, int W, int A>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& g, const Tensor& x,
                                                    const Tensor& y, const Tensor& weight,
                                                    const Tensor& bias, const Tensor& mean,
                                                    const Tensor& var, double eps, bool adds) {
  using V = Vec<W>;
  using F = typename V::F;
  Plane p = plane_of(x);
  int64_t C = x.size(1);
  double n = x.numel() / C;
  Tensor dx = at::empty_like(x), dw = at::empty_like(weight), db = at::empty_like(bias),
         da = adds ? at::empty_like(x) : at::empty({0}, x.options());
  const T *xs = x.data_ptr<T>(), *gs = g.data_ptr<T>(), *ys = adds ? y.data_ptr<T>() : nullptr;
  T *out = dx.data_ptr<T>(), *as = adds ? da.data_ptr<T>() : nullptr;
  std::vector<float> scale(C), onto(C), away(C);
  for (int64_t c = 0; c < C; c++)
    scale[c] = weight.data_ptr<float>()[c] / std::sqrt(var.data_ptr<float>()[c] + eps);
  auto sc = repeated(scale.data(), p), m = repeated(mean.data_ptr<float>(), p),
       b = repeated(bias.data_ptr<float>(), p);
  auto sums = two_sums<W>(p, [&]<int N>(int64_t from, int64_t to, int64_t c, float (*s)[4 * W]) {
    F t[N] = {}, u[N] = {};
    for (int64_t r = from; r < to; r++)
      for (int k = 0; k < N; k++) {
        int64_t q = c + k * W, i = r * p.C + q;
        F v = V::load(xs + i) - V::load(&m[q]),
          d = back<A>(V::load(gs + i),
                      adds ? V::load(ys + i) : v * V::load(&sc[q]) + V::load(&b[q]));
        if (adds) V::store(as + i, d);
        t[k] += d;
        u[k] += d * v;
      }
    for (int k = 0; k < N; k++) {
      V::store(s[0] + k * W, t[k]);
      V::store(s[1] + k * W, u[k]);
    }
  });
  for (int64_t c = 0; c < C; c++) {  // dx = scale d + onto (x - mean) + away
    double inverse = 1 / (var.data_ptr<float>()[c] + eps);
    db.data_ptr<float>()[c] = sums[c];
    dw.data_ptr<float>()[c] = sums[C + c] * std::sqrt(inverse);
    onto[c] = -scale[c] * sums[C + c] * inverse / n;
    away[c] = -scale[c] * sums[c] / n;
  }
  auto on = repeated(onto.data(), p), aw = repeated(away.data(), p);
  at::parallel_for(0, p.rows, std::max<int64_t>(1, 32768 / p.C), [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++)
      for (int64_t c = 0, i = r * p.C; c < p.C; c += W) {
        F v = V::load(xs + i + c) - V::load(&m[c]), k = V::load(&sc[c]),
          d = adds ? V::load(as + i + c) : back<A>(V::load(gs + i + c), v * k + V::load(&b[c]));
        V::store(out + i + c, k * d + (V::load(&on[c]) * v + V::load(&aw[c])));
      }
  });
  return {dx, dw, db, da};
}

// [door]
#define BENT(f, T, W, ...) \
  (bend == GELU   ? f<T, W, GELU>(__VA_ARGS__) \
   : bend == RELU ? f<T, W, RELU>(__VA_ARGS__) \
                  : f<T, W, NONE>(__VA_ARGS__))
#define WIDTHS(f, T, ...) \
  (x.size(1) % 16 ? BENT(f, T, 8, __VA_ARGS__) : BENT(f, T, 16, __VA_ARGS__))
#define CHOOSE(f, ...) \
  (x.scalar_type() == at::kFloat ? WIDTHS(f, float, __VA_ARGS__) : WIDTHS(f, BFloat16, __VA_ARGS__))
std::tuple<Tensor, Tensor, Tensor> norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                        const Tensor& add, double eps, int64_t bend) {
  return CHOOSE(forward, x, weight, bias, add, eps);
}
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& g, const Tensor& x,
                                                         const Tensor& y, const Tensor& weight,
                                                         const Tensor& bias, const Tensor& mean,
                                                         const Tensor& var, double eps,
                                                         int64_t bend, bool adds) {
  return CHOOSE(backward, g, x, y, weight, bias, mean, var, eps, adds);
}
}  // namespace
TORCH_LIBRARY_FRAGMENT(cifar_nb, m) {
  m.def(
      "norm(Tensor x, Tensor weight, Tensor bias, Tensor add, float eps, int bend) -> (Tensor y, "
      "Tensor mean, Tensor var)",
      &norm);
  m.def(
      "norm_backward(Tensor g, Tensor x, Tensor y, Tensor weight, Tensor bias, Tensor mean, Tensor "
      "var, float eps, int bend, bool adds) -> (Tensor dx, Tensor dw, Tensor db, Tensor da)",
      &norm_backward);
}
