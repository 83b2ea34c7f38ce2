// Python's table of the ops on a batch of samples.
#include "bind.h"
#include "samples.h"

namespace fastgan {

FASTGAN_DECLARE_CPU(int64_t sample_norm_workspace(int64_t, int64_t);  //
                    void sample_norm(const SampleNorm&, int);         //
                    void scale_samples(const ScaleSamples&, int);     //
                    void interpolate(const Interpolate&, int);        //
                    void interpolate_backward(const InterpolateBackward&, int);)

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
int64_t sample_norm_workspace(int64_t, int64_t);
void sample_norm(const SampleNorm&, cudaStream_t);
void scale_samples(const ScaleSamples&, cudaStream_t);
void interpolate(const Interpolate&, cudaStream_t);
void interpolate_backward(const InterpolateBackward&, cudaStream_t);
}  // namespace cuda
#endif

namespace {

template <typename Execution, typename Workspace, typename Norm, typename Scale, typename Mix, typename MixBackward>
void bind(py::module_& m, Workspace workspace_size, Norm norm, Scale scale, Mix mix, MixBackward mix_backward) {
  m.def("sample_norm_workspace", [=](int64_t count, int64_t size) {
    check_sizes("x", {count, size});
    return workspace_size(count, size);
  });
  m.def("sample_norm", [=](uintptr_t x, uintptr_t norms, uintptr_t workspace, int64_t count, int64_t size, bool squared,
                           int dtype, Execution execution) {
    py::gil_scoped_release release;
    check_sizes("x", {count, size});
    norm(SampleNorm{pointer(x), pointer(norms), pointer(workspace), count, size, squared, DType(dtype)}, execution);
  });
  m.def("scale_samples", [=](uintptr_t x, uintptr_t c, uintptr_t norms, uintptr_t y, int64_t count, int64_t size,
                             double factor, int dtype, Execution execution) {
    py::gil_scoped_release release;
    check_sizes("x", {count, size});
    scale(ScaleSamples{pointer(x), pointer(c), pointer(norms), pointer(y), count, size, factor, DType(dtype)},
          execution);
  });
  m.def("interpolate", [=](uintptr_t real, uintptr_t fake, uintptr_t eps, uintptr_t y, int64_t count, int64_t size,
                           int dtype, Execution execution) {
    py::gil_scoped_release release;
    check_sizes("real", {count, size});
    mix(Interpolate{pointer(real), pointer(fake), pointer(eps), pointer(y), count, size, DType(dtype)}, execution);
  });
  m.def("interpolate_backward", [=](uintptr_t dy, uintptr_t eps, uintptr_t dreal, uintptr_t dfake, int64_t count,
                                    int64_t size, int dtype, Execution execution) {
    py::gil_scoped_release release;
    check_sizes("dy", {count, size});
    mix_backward(
        InterpolateBackward{pointer(dy), pointer(eps), pointer(dreal), pointer(dfake), count, size, DType(dtype)},
        execution);
  });
}

}  // namespace

void bind_samples(py::module_& cpu, py::module_* cuda) {
  bind<int>(cpu, cpu::base::sample_norm_workspace, FASTGAN_CPU(sample_norm), FASTGAN_CPU(scale_samples),
            FASTGAN_CPU(interpolate), FASTGAN_CPU(interpolate_backward));
#ifdef FASTGAN_WITH_CUDA
  bind<uintptr_t>(*cuda, cuda::sample_norm_workspace, FASTGAN_CUDA(sample_norm), FASTGAN_CUDA(scale_samples),
                  FASTGAN_CUDA(interpolate), FASTGAN_CUDA(interpolate_backward));
#endif
}

}  // namespace fastgan
