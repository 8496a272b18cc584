// Settings of libtorch as a whole.
#include "shim.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace heldout {
namespace {

/// libtorch warns of an operation without a deterministic kernel at every call; once is enough.
struct Once : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    const std::lock_guard<std::mutex> guard(mutex);
    if (seen.insert(warning.msg()).second) c10::WarningHandler::process(warning);
  }
  std::mutex mutex;
  std::set<std::string> seen;
};

} // namespace
} // namespace heldout

extern "C" {

char* heldout_reproducible() {
  return heldout::guarded([] {
#ifndef _WIN32
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
#endif
    static heldout::Once once;
    c10::WarningUtils::set_warning_handler(&once);
    auto& context = at::globalContext();
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    context.setDeterministicFillUninitializedMemory(false);
    context.setAllowTF32CuDNN(false);
    context.setAllowTF32CuBLAS(false);
  });
}

const char* heldout_libtorch_version() { return TORCH_VERSION; }

} // extern "C"
