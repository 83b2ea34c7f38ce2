// Python's table of bias_act and of sums over channels.
#include "bias_act.h"
#include "bind.h"

namespace fastgan {

FASTGAN_DECLARE_CPU(void bias_act(const BiasAct&, int);                         //
                    int64_t sum_channels_workspace(int64_t, int64_t, int64_t);  //
                    void sum_channels(const SumChannels&, int);)

#ifdef FASTGAN_WITH_CUDA
namespace cuda {
void bias_act(const BiasAct&, cudaStream_t);
int64_t sum_channels_workspace(int64_t, int64_t, int64_t);
void sum_channels(const SumChannels&, cudaStream_t);
}  // namespace cuda
#endif

namespace {

Channels channels_of(int64_t outer, int64_t channels, int64_t inner) {
  check_sizes("x", {outer, channels, inner});
  return {outer, channels, inner};
}

template <typename Execution, typename Act, typename Workspace, typename Sum>
void bind(py::module_& m, Act act, Workspace workspace_size, Sum sum) {
  m.def("bias_act", [=](uintptr_t x, uintptr_t b, uintptr_t dy, uintptr_t ddx, uintptr_t out, int64_t outer,
                        int64_t channels, int64_t inner, int kind, int part, double alpha, double gain, double clamp,
                        int dtype, Execution execution) {
    py::gil_scoped_release release;
    act(BiasAct{pointer(x), pointer(b), pointer(dy), pointer(ddx), pointer(out), channels_of(outer, channels, inner),
                Activation(kind), BiasActPart(part), alpha, gain, clamp, DType(dtype)},
        execution);
  });
  m.def("sum_channels_workspace", [=](int64_t outer, int64_t channels, int64_t inner) {
    check_sizes("x", {outer, channels, inner});
    return workspace_size(outer, channels, inner);
  });
  m.def("sum_channels", [=](uintptr_t x, uintptr_t sums, uintptr_t workspace, int64_t outer, int64_t channels,
                            int64_t inner, int dtype, Execution execution) {
    py::gil_scoped_release release;
    sum(SumChannels{pointer(x), pointer(sums), pointer(workspace), channels_of(outer, channels, inner), DType(dtype)},
        execution);
  });
}

}  // namespace

void bind_bias_act(py::module_& cpu, py::module_* cuda) {
  bind<int>(cpu, FASTGAN_CPU(bias_act), cpu::base::sum_channels_workspace, FASTGAN_CPU(sum_channels));
#ifdef FASTGAN_WITH_CUDA
  bind<uintptr_t>(*cuda, FASTGAN_CUDA(bias_act), cuda::sum_channels_workspace, FASTGAN_CUDA(sum_channels));
#endif
}

}  // namespace fastgan
