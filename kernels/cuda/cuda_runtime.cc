#include "kernels/cuda/cuda_runtime.h"

#if HOTSET_HAS_CUDA

#include <cuda_profiler_api.h>
#include <fmt/format.h>

#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_reservations.h"

namespace hotset {

namespace {

constexpr int kCapabilityMin = 75;  // 10 * major + minor: the oldest that the kernels are built for

std::string version_text(int version) {  // 12040 is 12.4
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// Why CUDA sees no card, if `error` is one of those that a machine without one gives.
std::string reason_of(cudaError_t error) {
  int driver = 0, runtime = 0;
  switch (error) {
    case cudaErrorInsufficientDriver:
      cudaDriverGetVersion(&driver);  // 0 where there is none
      cudaRuntimeGetVersion(&runtime);
      if (driver == 0) return "no NVIDIA driver is installed";
      return fmt::format(
          "the NVIDIA driver knows CUDA {}, this program was built with {}: update the driver",
          version_text(driver), version_text(runtime));
    case cudaErrorNoDevice:
      return "the NVIDIA driver finds no card (CUDA_VISIBLE_DEVICES may hide it)";
    case cudaErrorStubLibrary:
      return "the CUDA toolkit's stub library was loaded instead of the driver: take its folder "
             "out of LD_LIBRARY_PATH";
    default:
      return "";
  }
}

template <class Handle>
Handle as(void* handle) {
  return static_cast<Handle>(handle);
}

// What a destructor calls: after a fault of the card, or while the program ends, there is nothing
// left to give back, and nobody to tell.
void ignore(cudaError_t) {}

class CudaRuntime : public CardRuntime {
 public:
  explicit CudaRuntime(const cudaDeviceProp& properties)
      : name_(fmt::format("{} (compute capability {}.{})", properties.name, properties.major,
                          properties.minor)) {
    HOTSET_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least_, &greatest_));
  }

  std::string name() const override { return name_; }
  bool is_emulated() const override { return false; }
  CardMemoryInfo memory_info() override {
    size_t free = 0, total = 0;
    HOTSET_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
  }

  std::byte* allocate(int64_t bytes, const char* what) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is told here, not again by the next launch
      throw CardError(
          fmt::format("the card has no {} MiB left for {} ({} MiB are free): lower --vram, "
                      "or end what else uses the card",
                      mib(bytes), what, mib(memory_info().free_bytes)));
    }
    HOTSET_CUDA_CHECK(error);
    return static_cast<std::byte*>(memory);
  }
  void release(std::byte* memory) noexcept override { ignore(cudaFree(memory)); }

  std::byte* allocate_pinned(int64_t bytes, const char* what) override {
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, static_cast<size_t>(bytes),
                                            cudaHostAllocPortable | cudaHostAllocMapped);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw CardError(
          fmt::format("the system grants no {} MiB of pinned memory for {}", mib(bytes), what));
    }
    HOTSET_CUDA_CHECK(error);
    return static_cast<std::byte*>(memory);
  }
  void release_pinned(std::byte* memory) noexcept override { ignore(cudaFreeHost(memory)); }

  std::byte* reserve(int64_t bytes, const char* what) override {
    return reservations_.reserve(bytes, what);
  }
  void commit(std::byte* reservation, int64_t bytes, const char* what) override {
    reservations_.commit(reservation, bytes, what);
  }
  void release_reservation(std::byte* reservation) noexcept override {
    reservations_.release(reservation);
  }

  CardStream open_stream(StreamPriority priority) override {
    cudaStream_t stream = nullptr;
    HOTSET_CUDA_CHECK(cudaStreamCreateWithPriority(
        &stream, cudaStreamNonBlocking, priority == StreamPriority::kLow ? least_ : greatest_));
    return {stream};
  }
  void close_stream(CardStream stream) noexcept override {
    ignore(cudaStreamSynchronize(as<cudaStream_t>(stream.handle)));
    ignore(cudaStreamDestroy(as<cudaStream_t>(stream.handle)));
  }
  CardEvent open_event() override {
    cudaEvent_t event = nullptr;
    HOTSET_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return {event};
  }
  void close_event(CardEvent event) noexcept override {
    ignore(cudaEventDestroy(as<cudaEvent_t>(event.handle)));
  }

  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override {
    HOTSET_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault,
                                      as<cudaStream_t>(stream.handle)));
  }
  void fill(CardStream stream, void* to, uint8_t byte, int64_t bytes) override {
    HOTSET_CUDA_CHECK(
        cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), as<cudaStream_t>(stream.handle)));
  }
  void record(CardEvent event, CardStream stream) override {
    HOTSET_CUDA_CHECK(
        cudaEventRecord(as<cudaEvent_t>(event.handle), as<cudaStream_t>(stream.handle)));
  }
  void wait(CardStream stream, CardEvent event) override {
    HOTSET_CUDA_CHECK(
        cudaStreamWaitEvent(as<cudaStream_t>(stream.handle), as<cudaEvent_t>(event.handle), 0));
  }

  bool has_completed(CardEvent event) override {
    const cudaError_t error = cudaEventQuery(as<cudaEvent_t>(event.handle));
    if (error == cudaErrorNotReady) return false;
    HOTSET_CUDA_CHECK(error);
    return true;
  }
  void synchronise(CardEvent event) override {
    HOTSET_CUDA_CHECK(cudaEventSynchronize(as<cudaEvent_t>(event.handle)));
  }
  void synchronise(CardStream stream) override {
    HOTSET_CUDA_CHECK(cudaStreamSynchronize(as<cudaStream_t>(stream.handle)));
  }

  // Thread-local: what another thread copies or allocates meanwhile has nothing to do with it.
  void begin_capture(CardStream stream) override {
    HOTSET_CUDA_CHECK(
        cudaStreamBeginCapture(as<cudaStream_t>(stream.handle), cudaStreamCaptureModeThreadLocal));
  }
  CardGraph end_capture(CardStream stream) override {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    HOTSET_CUDA_CHECK(cudaStreamEndCapture(as<cudaStream_t>(stream.handle), &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
    ignore(cudaGraphDestroy(graph));
    HOTSET_CUDA_CHECK(error);
    return {executable};
  }
  void launch(CardGraph graph, CardStream stream) override {
    HOTSET_CUDA_CHECK(
        cudaGraphLaunch(as<cudaGraphExec_t>(graph.handle), as<cudaStream_t>(stream.handle)));
  }
  void close_graph(CardGraph graph) noexcept override {
    ignore(cudaGraphExecDestroy(as<cudaGraphExec_t>(graph.handle)));
  }
  void set_profiling(bool on) override {
    HOTSET_CUDA_CHECK(on ? cudaProfilerStart() : cudaProfilerStop());
  }

 private:
  static int64_t mib(int64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

  const std::string name_;
  CudaReservations reservations_;
  int least_ = 0, greatest_ = 0;  // priorities of streams
};

// Whether nothing works any more in this process.
bool is_lost(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
      return true;
    default:
      return false;
  }
}

}  // namespace

void fail_cuda_call(cudaError_t error, const char* call, const char* file, int line) {
  const char* const in_tree = std::strstr(file, "kernels/");
  std::string what_to_do;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    what_to_do = ": this build has no code for this card; build with its HOTSET_CUDA_ARCHITECTURES";
  } else if (is_lost(error)) {
    what_to_do =
        ": the card is lost for this process; start again, and if it comes back look at "
        "the system's log for the driver's words (Xid)";
  }
  throw CardError(fmt::format("the card: {} ({}) from {} at {}:{}{}", cudaGetErrorName(error),
                              cudaGetErrorString(error), call, in_tree != nullptr ? in_tree : file,
                              line, what_to_do),
                  is_lost(error));
}

CudaCard open_cuda_card() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (std::string reason = reason_of(error); !reason.empty()) return {nullptr, reason};
  HOTSET_CUDA_CHECK(error);
  if (count == 0) return {nullptr, reason_of(cudaErrorNoDevice)};
  cudaDeviceProp properties;
  HOTSET_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  if (10 * properties.major + properties.minor < kCapabilityMin) {
    return {nullptr, fmt::format("the card ({}) has compute capability {}.{}, at least {}.{} is "
                                 "needed",
                                 properties.name, properties.major, properties.minor,
                                 kCapabilityMin / 10, kCapabilityMin % 10)};
  }
  return {std::make_unique<CudaRuntime>(properties), ""};
}

}  // namespace hotset

#else

namespace hotset {

CudaCard open_cuda_card() {
  return {nullptr, "this program was built without CUDA (HOTSET_CUDA)"};
}

}  // namespace hotset

#endif
