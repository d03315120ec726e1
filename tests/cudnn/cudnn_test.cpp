// cuDNN as a reference of the benchmarks, without a GPU: the graphs compute what the kernels do, on a cuDNN that is
// written here; and the real library takes them and compiles them for GPUs that are described to it.
#include "benchmarks/agreement.h"
#include "benchmarks/cudnn_reference.h"
#include "tests/cudnn/fake_cudnn.h"
#include "tests/cudnn/host_gpu.h"
#include "tests/support/catch.h"

#include <fmt/format.h>

#include <map>
#include <optional>

namespace dino::test {
namespace {

/// What library() gives.
bench::cudnn::Api& current_api() {
  static bench::cudnn::Api api;
  return api;
}

/// Calls `body` for every benchmark that has cuDNN as a reference, prepared for a GPU.
void for_each_prepared(std::string_view shape, std::initializer_list<DType> dtypes,
                       const std::function<void(bench::Prepared&, bench::Bench&, const std::string& name)>& body) {
  const auto context = make_host_gpu();
  int count = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.operation != "attention" && benchmark.operation != "layer_norm" &&
        benchmark.operation != "dino_loss") {
      continue;
    }
    for (const DType dtype : dtypes) {
      if (benchmark.operation == "attention" && dtype == DType::float32) continue;
      bench::Bench bench(*context, bench::workload_of(shape), dtype);
      bench::Prepared prepared = benchmark.prepare(bench);
      // This program has no CUDA kernels.
      std::erase_if(prepared.left_out, [](const bench::LeftOut& left_out) { return left_out.name == "textbook"; });
      body(prepared, bench, fmt::format("{} {} {}", benchmark.operation, benchmark.pass, bench::short_name(dtype)));
      ++count;
    }
  }
  CHECK(count == (dtypes.size() == 2 ? 10 : 7));
}

void use_fake() {
  reset_fake_cudnn();
  current_api() = FakeCudnn::api();
}

TEST_CASE("cuDNN's graphs compute what the kernels do") {
  use_fake();
  for_each_prepared("tiny", {DType::float32, DType::bfloat16},
                    [](bench::Prepared& prepared, bench::Bench& bench, const std::string& name) {
                      INFO(name);
                      for (const bench::LeftOut& left_out : prepared.left_out) FAIL_CHECK(left_out.reason);
                      REQUIRE(prepared.references.size() == 1);
                      const bench::Agreement agreement(prepared, bench.stream(), bench.dtype());
                      for (int run = 0; run < 2; ++run) {
                        for (const double distance : agreement.distances(prepared.references.front())) {
                          CHECK(distance <= agreement.tolerance());
                        }
                      }
                    });
  CHECK(fake_cudnn().executions > 0);
  CHECK(fake_cudnn().softmaxes == 2 * 2 * 2);
  CHECK(fake_cudnn().plans_refused > 0);  // the second engine was taken
  CHECK(fake_cudnn().handles == 0);
  CHECK(fake_cudnn().descriptors == 0);
}

TEST_CASE("a cuDNN that computes something else gives no ratio") {
  use_fake();
  fake_cudnn().wrong_by = 0.05;
  for_each_prepared("tiny", {DType::float32, DType::bfloat16},
                    [](bench::Prepared& prepared, bench::Bench& bench, const std::string& name) {
                      INFO(name);
                      REQUIRE(prepared.references.size() == 1);
                      bench::leave_out_wrong_references(prepared, bench.stream(), bench.dtype());
                      CHECK(prepared.references.empty());
                      REQUIRE(prepared.left_out.size() == 1);
                      CHECK(prepared.left_out.front().reason.find("differ") != std::string::npos);
                    });
}

TEST_CASE("a row goes without cuDNN where it fails, with its own words") {
  const auto reasons_are = [](const std::string& words) {
    for_each_prepared("tiny", {DType::bfloat16},
                      [&](bench::Prepared& prepared, bench::Bench&, const std::string& name) {
                        INFO(name);
                        CHECK(prepared.references.empty());
                        REQUIRE(prepared.left_out.size() == 1);
                        INFO(prepared.left_out.front().reason);
                        CHECK(prepared.left_out.front().name.starts_with("cuDNN"));
                        CHECK(prepared.left_out.front().reason.find(words) != std::string::npos);
                      });
    CHECK(fake_cudnn().handles == 0);
    CHECK(fake_cudnn().descriptors == 0);
  };
  SECTION("no handle") {
    use_fake();
    fake_cudnn().create_status = CUDNN_STATUS_NOT_INITIALIZED;
    reasons_are("cuDNN create failed at cudnn_reference_cuda.cpp");
    reasons_are("there is no such GPU (CUDNN_STATUS_OF_THE_FAKE)");
  }
  SECTION("no engine") {
    use_fake();
    fake_cudnn().plan_status = CUDNN_STATUS_NOT_SUPPORTED;
    reasons_are("has no way to compute this graph: this engine does not do");
  }
  SECTION("no library") {
    current_api() = {};
    current_api().create = [](cudnnHandle_t*) -> cudnnStatus_t { fail("bench", "cannot load cuDNN"); };
    reasons_are("[bench] cannot load cuDNN");
  }
}

#if CUDNN_VERSION >= 90800
/// The real library, told of a GPU instead of being given one: where a handle is set, the description is; what would
/// run does not.
class RealCudnn {
 public:
  static bench::cudnn::Api api(const bench::cudnn::Api& real, const std::string& device) {
    instance() = {real, device, {}};
    bench::cudnn::Api api = real;
    static int handle = 0;
    api.create = [](cudnnHandle_t* to) {
      *to = reinterpret_cast<cudnnHandle_t>(&handle);
      return CUDNN_STATUS_SUCCESS;
    };
    api.destroy = [](cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; };
    api.set_stream = [](cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; };
    api.execute = [](cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t) {
      return CUDNN_STATUS_SUCCESS;
    };
    api.descriptor_create = [](cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
      const cudnnStatus_t status = instance().real.descriptor_create(type, descriptor);
      instance().types[*descriptor] = type;
      return status;
    };
    api.set_attribute = [](cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                           cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
      if (name == CUDNN_ATTR_OPERATIONGRAPH_HANDLE) return CUDNN_STATUS_SUCCESS;
      if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE) return describe(descriptor, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
      return instance().real.set_attribute(descriptor, name, type, count, values);
    };
    api.finalize = [](cudnnBackendDescriptor_t descriptor) {
      if (instance().types.at(descriptor) == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
        const cudnnStatus_t status = describe(descriptor, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
        if (status != CUDNN_STATUS_SUCCESS) return status;
      }
      return instance().real.finalize(descriptor);
    };
    return api;
  }

 private:
  struct Instance {
    bench::cudnn::Api real;
    std::string device;
    std::map<cudnnBackendDescriptor_t, cudnnBackendDescriptorType_t> types;
  };
  static Instance& instance() {
    static Instance instance;
    return instance;
  }
  static cudnnStatus_t describe(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name) {
    const auto& [real, device, types] = instance();
    cudnnBackendDescriptor_t properties = nullptr;  // as long as the process
    cudnnStatus_t status = real.descriptor_create(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &properties);
    if (status == CUDNN_STATUS_SUCCESS) {
      status = real.set_attribute(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                  static_cast<std::int64_t>(device.size()) + 1, device.c_str());
    }
    if (status == CUDNN_STATUS_SUCCESS) status = real.finalize(properties);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    return real.set_attribute(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &properties);
  }
};

/// What cuDNN asks of a GPU, as NVIDIA's tables have it.
std::string described_gpu(int compute_capability, int multiprocessors, int shared_bytes) {
  return fmt::format(
      R"({{"deviceVer":{},"multiProcessorCount":{},"maxSharedMemoryPerBlockOptin":{},"maxSharedMemoryPerBlock":49152,)"
      R"("reservedSharedMemoryPerBlock":1024,"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
      R"("regsPerBlock":65536,"warpSize":32,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,)"
      R"("maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,"smClockRateKHz":1980000,)"
      R"("memClockRateKHz":2619000,"l2CacheSize":52428800,"deviceName":"described","driverVer":13000,"cudaDeviceId":0,)"
      R"("totalGlobalMem":85899345920}})",
      compute_capability, multiprocessors, shared_bytes);
}

TEST_CASE("cuDNN itself takes every graph and compiles it, for H100 and A100", "[library]") {
  std::optional<bench::cudnn::Api> real;
  try {
    real = bench::cudnn::open_library();
  } catch (const Error& error) {
    WARN("SKIPPED: " << error.what());
    return;
  }
  if (real->version() < 90800) {
    WARN("SKIPPED: only cuDNN 9.8 or later can be told of a GPU; this one is " << real->version());
    return;
  }
  const auto all_are_taken = [&](const std::string& gpu, std::string_view shape, std::initializer_list<DType> dtypes) {
    current_api() = RealCudnn::api(*real, gpu);
    for_each_prepared(shape, dtypes, [](bench::Prepared& prepared, bench::Bench&, const std::string& name) {
      INFO(name);
      for (const bench::LeftOut& left_out : prepared.left_out) FAIL_CHECK(left_out.reason);
      CHECK(prepared.references.size() == 1);
    });
  };
  SECTION("H100") { all_are_taken(described_gpu(900, 132, 232448), "vits16", {DType::float32, DType::bfloat16}); }
  SECTION("A100") { all_are_taken(described_gpu(800, 108, 166912), "vits16", {DType::bfloat16}); }
  SECTION("a device that there is not") {
    current_api() = RealCudnn::api(*real, "{}");
    for_each_prepared("tiny", {DType::bfloat16}, [](bench::Prepared& prepared, bench::Bench&, const std::string& name) {
      INFO(name);
      CHECK(prepared.references.empty());
      CHECK(prepared.left_out.size() == 1);
    });
  }
}
#endif

}  // namespace
}  // namespace dino::test

namespace dino::bench::cudnn {

const Api& library() { return test::current_api(); }

}  // namespace dino::bench::cudnn
