// Python face: build a program, set its weights, run it on NumPy arrays.
//
// This file alone is compiled for any processor (setup.py), so that the module can be imported on any. Everything else
// is reached through a Program, which is refused if the rest cannot run.
#include <cpuid.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "program.hpp"

namespace py = pybind11;
using Array = py::array_t<float, py::array::c_style>;

namespace {

// Asks the kernel once for the right to use tiles; they hold 8 KiB of state a thread.
bool tiles_allowed() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

// Whether what the kernels are compiled for is there, by the processor and by the system that saves its registers.
bool supported() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kAmxBf16) && (d & kAmxTile);
  return tiles && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("fma") && tiles_allowed();
}

void check_size(const std::string& name, const Array& array, size_t expected) {
  if (static_cast<size_t>(array.size()) != expected) {
    throw std::invalid_argument(name + ": expected " + std::to_string(expected) + " numbers, got " +
                                std::to_string(array.size()));
  }
}

cpu::Call checked_call(cpu::Program& program, int num_samples, const std::vector<Array>& inputs,
                       const Array& modulation, size_t num_planes) {
  if (num_samples < 0) throw std::invalid_argument("num_samples: expected at least 0");
  if (static_cast<int>(inputs.size()) != program.num_inputs()) {
    throw std::invalid_argument("inputs: expected " + std::to_string(program.num_inputs()) + " arrays");
  }
  if (static_cast<int>(num_planes) != program.num_outputs()) {
    throw std::invalid_argument("outputs: expected " + std::to_string(program.num_outputs()) + " arrays");
  }
  cpu::Call call;
  for (int i = 0; i < program.num_inputs(); ++i) {
    check_size("inputs", inputs[i], static_cast<size_t>(num_samples) * program.input_size(i));
    call.inputs.push_back(inputs[i].data());
  }
  if (program.modulation_size() > 0) {
    if (modulation.ndim() != 2 || modulation.shape(0) != num_samples || modulation.shape(1) < program.modulation_size()) {
      throw std::invalid_argument("modulation: expected a row of at least " +
                                  std::to_string(program.modulation_size()) + " numbers a sample");
    }
    call.modulation = modulation.data();
    call.modulation_stride = modulation.shape(1);
  }
  return call;
}

void check_planes(const std::string& name, const cpu::Program& program, int i, int num_samples, const Array& planes) {
  const cpu::Value& out = program.shape_of_output(i);
  check_size(name, planes, static_cast<size_t>(num_samples) * out.channels * out.pixels());
}

void run(cpu::Program& program, int num_samples, const std::vector<Array>& inputs, const Array& modulation,
         std::vector<Array> outputs) {
  cpu::Call call = checked_call(program, num_samples, inputs, modulation, outputs.size());
  for (int i = 0; i < program.num_outputs(); ++i) {
    check_planes("outputs", program, i, num_samples, outputs[i]);
    call.outputs.push_back(outputs[i].mutable_data());
  }
  py::gil_scoped_release release;
  program.run(num_samples, call);
}

// The gradient of the modulation, shaped like it.
Array backward(cpu::Program& program, int num_samples, const std::vector<Array>& inputs, const Array& modulation,
               const std::vector<Array>& output_grads) {
  cpu::Call call = checked_call(program, num_samples, inputs, modulation, output_grads.size());
  for (int i = 0; i < program.num_outputs(); ++i) {
    check_planes("output_grads", program, i, num_samples, output_grads[i]);
    call.output_grads.push_back(output_grads[i].data());
  }
  Array modulation_grads(std::vector<py::ssize_t>{num_samples, static_cast<py::ssize_t>(call.modulation_stride)});
  std::fill_n(modulation_grads.mutable_data(), modulation_grads.size(), 0.0f);
  call.modulation_grads = modulation_grads.mutable_data();
  py::gil_scoped_release release;
  program.backward(num_samples, call);
  return modulation_grads;
}

py::tuple conv_grads(const cpu::Program& program, int op, std::vector<py::ssize_t> weight_shape) {
  Array weight(weight_shape), bias(std::vector<py::ssize_t>{weight_shape.at(0)});
  check_size("weight_shape", weight, program.op(op).weight_size());
  check_size("weight_shape[0]", bias, program.op(op).bias_size());
  program.read_grads(op, weight.mutable_data(), bias.mutable_data(), nullptr, nullptr);
  return py::make_tuple(weight, bias);
}

py::tuple norm_grads(cpu::Program& program, int op) {
  const cpu::Norm* norm = program.op(op).norm();
  if (norm == nullptr || norm->groups == 0 || norm->modulation >= 0) throw std::invalid_argument("op: learns no norm");
  const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(norm->weight.size())};
  Array weight(shape), bias(shape);
  program.read_grads(op, nullptr, nullptr, weight.mutable_data(), bias.mutable_data());
  return py::make_tuple(weight, bias);
}

void set_norm(cpu::Program& program, int i, const Array& weight, const Array& bias) {
  cpu::Norm* norm = program.op(i).norm();
  if (norm == nullptr || norm->groups == 0) throw std::invalid_argument("op: has no norm");
  check_size("weight", weight, norm->weight.size());
  check_size("bias", bias, norm->bias.size());
  norm->weight.assign(weight.data(), weight.data() + weight.size());
  norm->bias.assign(bias.data(), bias.data() + bias.size());
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Convolutional networks in bfloat16 on AMX tiles, one sample a core at a time.";
  m.def("tiles_allowed", &tiles_allowed);
  py::class_<cpu::Norm>(m, "Norm")
      .def(py::init([](int groups, float eps, bool silu, int modulation) {
             return cpu::Norm{groups, eps, silu, modulation, {}, {}};
           }),
           py::arg("groups"), py::arg("eps"), py::arg("silu"), py::arg("modulation") = -1);
  py::class_<cpu::Program>(m, "Program")
      .def(py::init([](int num_threads) {
             if (!supported()) throw std::runtime_error("Program: this processor or its system does not offer AMX");
             if (num_threads < 1) throw std::invalid_argument("num_threads: expected at least 1");
             return std::make_unique<cpu::Program>(num_threads);
           }),
           py::arg("num_threads"))
      .def("input", &cpu::Program::input, py::arg("channels"), py::arg("scales"), py::arg("height"), py::arg("width"))
      .def(
          "conv",
          [](cpu::Program& program, std::vector<int> inputs, int out_channels, int kernel, int stride, bool upsample,
             const cpu::Norm* norm, int residual) {
            cpu::ConvSpec spec{std::move(inputs), out_channels, kernel, stride, upsample, {}, residual};
            if (norm != nullptr) spec.norm = *norm;
            return program.conv(spec);
          },
          py::arg("inputs"), py::arg("out_channels"), py::arg("kernel") = 3, py::arg("stride") = 1,
          py::arg("upsample") = false, py::arg("norm") = nullptr, py::arg("residual") = -1)
      .def("norm", &cpu::Program::norm, py::arg("input"), py::arg("norm"))
      .def("attention", &cpu::Program::attention, py::arg("qkv"), py::arg("heads"))
      .def("max_pool", &cpu::Program::max_pool, py::arg("input"))
      .def("resize", &cpu::Program::resize, py::arg("input"), py::arg("height"), py::arg("width"))
      .def("output", &cpu::Program::output, py::arg("value"))
      .def(
          "shape",
          [](const cpu::Program& program, int value) {
            const cpu::Value& v = program.value(value);
            return py::make_tuple(v.channels, v.h, v.w);
          },
          py::arg("value"))
      .def("num_ops", &cpu::Program::num_ops)
      .def(
          "set_conv",
          [](cpu::Program& program, int i, const Array& weight, const Array& bias) {
            cpu::Op& op = program.op(i);
            check_size("weight", weight, op.weight_size());
            check_size("bias", bias, op.bias_size());
            op.set_weight(weight.data(), bias.data());
          },
          py::arg("op"), py::arg("weight"), py::arg("bias"))
      .def("set_norm", &set_norm, py::arg("op"), py::arg("weight"), py::arg("bias"))
      .def("run", &run, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"), py::arg("outputs"))
      .def("backward", &backward, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"),
           py::arg("output_grads"))
      .def("conv_grads", &conv_grads, py::arg("op"), py::arg("weight_shape"))
      .def("norm_grads", &norm_grads, py::arg("op"));
}
