#include "spectral_norm.h"

#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE(spectral_norm_forward, SpectralNormForward)
FASTGAN_DECLARE(spectral_norm_backward, SpectralNormBackward)
FASTGAN_CUDA(namespace cuda { int64_t spectral_norm_plan(SpectralNormLayer*, int64_t); })

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

int64_t plan(Cpu, std::vector<SpectralNormLayer>& layers) { return spectral_norm_plan(layers.data(), layers.size()); }
FASTGAN_CUDA(int64_t plan(Cuda, std::vector<SpectralNormLayer>& layers) {
  return cuda::spectral_norm_plan(layers.data(), layers.size());
})

template <typename Device>
void bind(py::module_& m) {
  m.def("spectral_norm_workspace", [](const Sizes& rows, const Sizes& cols) {
    auto layers = make_layers(rows, cols);
    return plan(Device{}, layers);
  });
  m.def(
      "spectral_norm_forward",
      [](const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& w_out, const Addresses& u_out,
         const Addresses& v_out, const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t workspace,
         int iterations, double eps, bool u_first, int dtype, int out_dtype, typename Device::Execution execution) {
        auto layers = forward_layers(w, u, v, w_out, u_out, v_out, rows, cols);
        plan(Device{}, layers);
        const auto count = static_cast<int64_t>(layers.size());
        spectral_norm_forward(Device{},
                              SpectralNormForward{layers.data(), count, pointer(sigmas), pointer(workspace), iterations,
                                                  eps, u_first, DType(dtype), DType(out_dtype)},
                              execution);
      },
      WithoutGil());
  m.def(
      "spectral_norm_backward",
      [](const Addresses& grad, const Addresses& w, const Addresses& u, const Addresses& v, const Addresses& dw,
         const Sizes& rows, const Sizes& cols, uintptr_t sigmas, uintptr_t grad_sigmas, uintptr_t workspace, int dtype,
         int grad_dtype, typename Device::Execution execution) {
        auto layers = backward_layers(grad, w, u, v, dw, rows, cols);
        plan(Device{}, layers);
        const auto count = static_cast<int64_t>(layers.size());
        spectral_norm_backward(Device{},
                               SpectralNormBackward{layers.data(), count, pointer(sigmas), pointer(grad_sigmas),
                                                    pointer(workspace), DType(dtype), DType(grad_dtype)},
                               execution);
      },
      WithoutGil());
}

FASTGAN_BIND(bind);

}  // namespace
}  // namespace fastgan
