// What the instruction sets need, and whether this processor and its system have it.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cpu {

#if defined(__x86_64__)
// Asks the kernel once for the right to use tiles; they hold 8 KiB of state a thread.
inline bool tiles_allowed() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

// What __builtin_cpu_supports asks of the processor, it also asks of the system, which has to save the registers.
inline std::vector<std::string> missing_on_x86(const std::string& set) {
  std::vector<std::string> lacks;
  const auto need = [&](bool has, const char* name) {
    if (!has) lacks.push_back(name);
  };
  if (set == "amx") {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool known = __get_cpuid_count(7, 0, &a, &b, &c, &d);
    need(known && (d & 1u << 24), "amx_tile");
    need(known && (d & 1u << 22), "amx_bf16");
    need(__builtin_cpu_supports("avx512bf16"), "avx512_bf16");
  }
  if (set == "amx" || set == "avx512") {
    need(__builtin_cpu_supports("avx512f"), "avx512f");
    need(__builtin_cpu_supports("avx512bw"), "avx512bw");
    need(__builtin_cpu_supports("avx512vl"), "avx512vl");
    need(__builtin_cpu_supports("avx512dq"), "avx512dq");
  }
  if (set == "avx2") need(__builtin_cpu_supports("avx2"), "avx2");
  need(__builtin_cpu_supports("fma"), "fma");
  if (set == "amx" && lacks.empty()) need(tiles_allowed(), "an operating system that allows AMX");
  return lacks;
}
#endif

// Names of what a set needs and is not there; throws std::invalid_argument if there is no such set.
inline std::vector<std::string> missing(const std::string& set) {
  if (set == "portable") return {};
  if (set == "amx" || set == "avx512" || set == "avx2") {
#if defined(__x86_64__)
    return missing_on_x86(set);
#else
    return {"an x86 processor"};
#endif
  }
  if (set == "neon") {
#if defined(__aarch64__)
    return {};
#else
    return {"a 64-bit ARM processor"};
#endif
  }
  throw std::invalid_argument("instruction_set: expected amx, avx512, avx2, neon or portable, got " + set);
}

}  // namespace cpu
