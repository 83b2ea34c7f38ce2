// Python's table of spectral norm.
#include "bind.h"
#include "spectral_norm.h"

namespace fastgan {

FASTGAN_DECLARE_CPU(void spectral_norm_forward(const SpectralNormForward&, int);
                    void spectral_norm_backward(const SpectralNormBackward&, int);)

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
int64_t spectral_norm_plan(SpectralNormLayer*, int64_t);
void spectral_norm_forward(const SpectralNormForward&, cudaStream_t);
void spectral_norm_backward(const SpectralNormBackward&, cudaStream_t);
}  // namespace cuda
#endif

namespace {

std::vector<SpectralNormLayer> make_layers(const Sizes& rows, const Sizes& cols) {
  std::vector<SpectralNormLayer> layers(rows.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    check_sizes("a weight", {rows[i], cols.at(i)});
    layers[i].rows = rows[i];
    layers[i].cols = cols[i];
  }
  return layers;
}

std::vector<SpectralNormLayer> forward_layers(const Addresses& w, const Addresses& u, const Addresses& v,
                                              const Addresses& w_out, const Addresses& u_out, const Addresses& v_out,
                                              const Sizes& rows, const Sizes& cols) {
  auto layers = make_layers(rows, cols);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].w = pointer(w.at(i));
    layers[i].u = pointer(u.at(i));
    layers[i].v = pointer(v.at(i));
    layers[i].w_out = pointer(w_out.at(i));
    layers[i].u_out = pointer(u_out.at(i));
    layers[i].v_out = pointer(v_out.at(i));
  }
  return layers;
}

std::vector<SpectralNormLayer> backward_layers(const Addresses& grad, const Addresses& w, const Addresses& u,
                                               const Addresses& v, const Addresses& dw, const Sizes& rows,
                                               const Sizes& cols) {
  auto layers = make_layers(rows, cols);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].grad = pointer(grad.at(i));
    layers[i].w = pointer(w.at(i));
    layers[i].u = pointer(u.at(i));
    layers[i].v = pointer(v.at(i));
    layers[i].w_out = pointer(dw.at(i));
  }
  return layers;
}

template <typename Execution, typename Plan, typename Forward, typename Backward>
void bind(py::module_& m, Plan plan, Forward run_forward, Backward run_backward) {
  m.def("spectral_norm_workspace", [plan](const Sizes& rows, const Sizes& cols) {
    auto layers = make_layers(rows, cols);
    return plan(layers.data(), static_cast<int64_t>(layers.size()));
  });
  m.def("spectral_norm_forward",
        [=](const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& w_out, const Addresses& u_out,
            const Addresses& v_out, const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t workspace,
            int iterations, double eps, bool u_first, int dtype, int out_dtype, Execution execution) {
          py::gil_scoped_release release;
          auto layers = forward_layers(w, u, v, w_out, u_out, v_out, rows, cols);
          const auto count = static_cast<int64_t>(layers.size());
          plan(layers.data(), count);
          run_forward(SpectralNormForward{layers.data(), count, pointer(sigmas), pointer(workspace), iterations, eps,
                                          u_first, DType(dtype), DType(out_dtype)},
                      execution);
        });
  m.def("spectral_norm_backward",
        [=](const Addresses& grad, const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& dw,
            const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t grad_sigmas, uintptr_t workspace,
            int dtype, int grad_dtype, Execution execution) {
          py::gil_scoped_release release;
          auto layers = backward_layers(grad, w, u, v, dw, rows, cols);
          const auto count = static_cast<int64_t>(layers.size());
          plan(layers.data(), count);
          run_backward(SpectralNormBackward{layers.data(), count, pointer(sigmas), pointer(grad_sigmas),
                                            pointer(workspace), DType(dtype), DType(grad_dtype)},
                       execution);
        });
}

}  // namespace

void bind_spectral_norm(py::module_& cpu, py::module_* cuda) {
  bind<int>(cpu, spectral_norm_plan, FASTGAN_CPU(spectral_norm_forward), FASTGAN_CPU(spectral_norm_backward));
#ifdef FASTGAN_WITH_CUDA
  bind<uintptr_t>(*cuda, cuda::spectral_norm_plan, FASTGAN_CUDA(spectral_norm_forward),
                  FASTGAN_CUDA(spectral_norm_backward));
#endif
}

}  // namespace fastgan
