// Python face: load an instruction set's library, build a program, set its weights, run it on NumPy arrays.
//
// Compiled for any processor, so that the module can be imported on any: a library is loaded only if the processor and
// the system have all it is made of.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "instruction_sets.hpp"
#include "interface.hpp"

namespace py = pybind11;
using Array = py::array_t<float, py::array::c_style>;

namespace {

std::unique_ptr<cpu::AnyProgram> make_program(int num_threads, const std::string& set, const std::string& library) {
  const std::vector<std::string> lacks = cpu::missing(set);
  if (!lacks.empty()) throw std::runtime_error("Program: this processor or its system lacks " + lacks[0]);
  if (num_threads < 1) throw std::invalid_argument("num_threads: expected at least 1");
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays loaded: programs' threads never end
  if (handle == nullptr) throw std::runtime_error(std::string("Program: ") + dlerror());
  const auto make = reinterpret_cast<cpu::MakeProgram>(dlsym(handle, cpu::kMakeProgram));
  if (make == nullptr) throw std::runtime_error(std::string("Program: ") + dlerror());
  return std::unique_ptr<cpu::AnyProgram>(make(num_threads));
}

void check_size(const std::string& name, const Array& array, size_t expected) {
  if (static_cast<size_t>(array.size()) != expected) {
    throw std::invalid_argument(name + ": expected " + std::to_string(expected) + " numbers, got " +
                                std::to_string(array.size()));
  }
}

cpu::Call checked_call(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs,
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

void check_planes(const std::string& name, const cpu::AnyProgram& program, int i, int num_samples, const Array& planes) {
  const cpu::Shape out = program.shape_of_output(i);
  check_size(name, planes, static_cast<size_t>(num_samples) * out.channels * out.h * out.w);
}

cpu::Call forward_call(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs,
                       const Array& modulation, std::vector<Array>& outputs) {
  cpu::Call call = checked_call(program, num_samples, inputs, modulation, outputs.size());
  for (int i = 0; i < program.num_outputs(); ++i) {
    check_planes("outputs", program, i, num_samples, outputs[i]);
    call.outputs.push_back(outputs[i].mutable_data());
  }
  return call;
}

// Memories of past frames, [num_samples, past, 2C, H, W] of every look.
void add_memories(cpu::Call& call, const cpu::AnyProgram& program, int num_samples, const std::vector<Array>& memories,
                  int past) {
  if (past < 0 || past > program.most_past()) throw std::invalid_argument("past: more frames than the program looks at");
  if (static_cast<int>(memories.size()) != (past == 0 ? 0 : program.num_looks())) {
    throw std::invalid_argument("memories: expected one a look, and none without past frames");
  }
  call.past = past;
  for (size_t i = 0; i < memories.size(); ++i) {
    check_size("memories", memories[i], static_cast<size_t>(num_samples) * past * program.memory_size(static_cast<int>(i)));
    call.memories.push_back(memories[i].data());
  }
}

void run(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs, const Array& modulation,
         std::vector<Array> outputs, const std::vector<Array>& memories, int past) {
  cpu::Call call = forward_call(program, num_samples, inputs, modulation, outputs);
  add_memories(call, program, num_samples, memories, past);
  py::gil_scoped_release release;
  program.run(num_samples, call);
}

// own: where keys and values of the frames themselves go, [num_samples, 2C, H, W] of every look.
void remember(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs, const Array& modulation,
              std::vector<Array> own, const std::vector<Array>& memories, int past) {
  cpu::Call call = checked_call(program, num_samples, inputs, modulation, program.num_outputs());
  add_memories(call, program, num_samples, memories, past);
  if (static_cast<int>(own.size()) != program.num_looks()) throw std::invalid_argument("own: expected one a look");
  for (size_t i = 0; i < own.size(); ++i) {
    check_size("own", own[i], static_cast<size_t>(num_samples) * program.memory_size(static_cast<int>(i)));
    call.own.push_back(own[i].mutable_data());
  }
  py::gil_scoped_release release;
  program.remember(num_samples, call);
}

std::unique_ptr<cpu::Kept> run_and_keep(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs,
                                        const Array& modulation, std::vector<Array> outputs, size_t most_bytes) {
  const cpu::Call call = forward_call(program, num_samples, inputs, modulation, outputs);
  py::gil_scoped_release release;
  return program.run_and_keep(num_samples, call, most_bytes);
}

// The gradient of the modulation, shaped like it.
Array backward(cpu::AnyProgram& program, int num_samples, const std::vector<Array>& inputs, const Array& modulation,
               const std::vector<Array>& output_grads, const cpu::Kept* kept) {
  cpu::Call call = checked_call(program, num_samples, inputs, modulation, output_grads.size());
  for (int i = 0; i < program.num_outputs(); ++i) {
    check_planes("output_grads", program, i, num_samples, output_grads[i]);
    call.output_grads.push_back(output_grads[i].data());
  }
  Array modulation_grads(std::vector<py::ssize_t>{num_samples, static_cast<py::ssize_t>(call.modulation_stride)});
  std::fill_n(modulation_grads.mutable_data(), modulation_grads.size(), 0.0f);
  call.modulation_grads = modulation_grads.mutable_data();
  py::gil_scoped_release release;
  program.backward(num_samples, call, kept);
  return modulation_grads;
}

py::tuple conv_grads(const cpu::AnyProgram& program, int op, std::vector<py::ssize_t> weight_shape) {
  Array weight(weight_shape), bias(std::vector<py::ssize_t>{weight_shape.at(0)});
  check_size("weight_shape", weight, program.weight_size(op));
  check_size("weight_shape[0]", bias, program.bias_size(op));
  program.read_grads(op, weight.mutable_data(), bias.mutable_data(), nullptr, nullptr);
  return py::make_tuple(weight, bias);
}

py::tuple norm_grads(cpu::AnyProgram& program, int op) {
  const cpu::Norm* norm = program.norm_of(op);
  if (norm == nullptr || norm->groups == 0 || norm->modulation >= 0) throw std::invalid_argument("op: learns no norm");
  const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(norm->weight.size())};
  Array weight(shape), bias(shape);
  program.read_grads(op, nullptr, nullptr, weight.mutable_data(), bias.mutable_data());
  return py::make_tuple(weight, bias);
}

void set_norm(cpu::AnyProgram& program, int i, const Array& weight, const Array& bias) {
  cpu::Norm* norm = program.norm_of(i);
  if (norm == nullptr || norm->groups == 0) throw std::invalid_argument("op: has no norm");
  check_size("weight", weight, norm->weight.size());
  check_size("bias", bias, norm->bias.size());
  norm->weight.assign(weight.data(), weight.data() + weight.size());
  norm->bias.assign(bias.data(), bias.data() + bias.size());
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Convolutional networks as compiled programs, one sample a core at a time.";
  m.def("missing", &cpu::missing, py::arg("instruction_set"));
  py::class_<cpu::Norm>(m, "Norm")
      .def(py::init([](int groups, float eps, bool silu, int modulation) {
             return cpu::Norm{groups, eps, silu, modulation, {}, {}};
           }),
           py::arg("groups"), py::arg("eps"), py::arg("silu"), py::arg("modulation") = -1);
  py::class_<cpu::Kept>(m, "Kept");
  py::class_<cpu::AnyProgram>(m, "Program")
      .def(py::init(&make_program), py::arg("num_threads"), py::arg("instruction_set"), py::arg("library"))
      .def("input", &cpu::AnyProgram::input, py::arg("channels"), py::arg("scales"), py::arg("height"), py::arg("width"))
      .def(
          "conv",
          [](cpu::AnyProgram& program, std::vector<int> inputs, int out_channels, int kernel, int stride, bool upsample,
             const cpu::Norm* norm, int residual) {
            cpu::ConvSpec spec{std::move(inputs), out_channels, kernel, stride, upsample, {}, residual};
            if (norm != nullptr) spec.norm = *norm;
            return program.conv(spec);
          },
          py::arg("inputs"), py::arg("out_channels"), py::arg("kernel") = 3, py::arg("stride") = 1,
          py::arg("upsample") = false, py::arg("norm") = nullptr, py::arg("residual") = -1)
      .def("norm", &cpu::AnyProgram::norm, py::arg("input"), py::arg("norm"))
      .def("attention", &cpu::AnyProgram::attention, py::arg("qkv"), py::arg("heads"))
      .def(
          "look",
          [](cpu::AnyProgram& program, int input, int heads, int most_past, bool own, bool same_place) {
            return program.look({input, heads, most_past, own, same_place});
          },
          py::arg("input"), py::arg("heads"), py::arg("most_past"), py::arg("own"), py::arg("same_place"))
      .def("layer_norm", &cpu::AnyProgram::layer_norm, py::arg("input"), py::arg("eps"), py::arg("scale"),
           py::arg("shift"))
      .def("gelu", &cpu::AnyProgram::gelu, py::arg("input"))
      .def("gated_sum", &cpu::AnyProgram::gated_sum, py::arg("input"), py::arg("other"), py::arg("gate"))
      .def("max_pool", &cpu::AnyProgram::max_pool, py::arg("input"))
      .def("resize", &cpu::AnyProgram::resize, py::arg("input"), py::arg("height"), py::arg("width"))
      .def("output", &cpu::AnyProgram::output, py::arg("value"))
      .def(
          "shape",
          [](const cpu::AnyProgram& program, int value) {
            const cpu::Shape shape = program.shape(value);
            return py::make_tuple(shape.channels, shape.h, shape.w);
          },
          py::arg("value"))
      .def("num_ops", &cpu::AnyProgram::num_ops)
      .def(
          "set_conv",
          [](cpu::AnyProgram& program, int i, const Array& weight, const Array& bias) {
            check_size("weight", weight, program.weight_size(i));
            check_size("bias", bias, program.bias_size(i));
            program.set_weight(i, weight.data(), bias.data());
          },
          py::arg("op"), py::arg("weight"), py::arg("bias"))
      .def("set_norm", &set_norm, py::arg("op"), py::arg("weight"), py::arg("bias"))
      .def("run", &run, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"), py::arg("outputs"),
           py::arg("memories") = std::vector<Array>(), py::arg("past") = 0)
      .def("remember", &remember, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"), py::arg("own"),
           py::arg("memories") = std::vector<Array>(), py::arg("past") = 0)
      .def("run_and_keep", &run_and_keep, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"),
           py::arg("outputs"), py::arg("most_bytes"))
      .def("backward", &backward, py::arg("num_samples"), py::arg("inputs"), py::arg("modulation"),
           py::arg("output_grads"), py::arg("kept") = nullptr)
      .def("conv_grads", &conv_grads, py::arg("op"), py::arg("weight_shape"))
      .def("norm_grads", &norm_grads, py::arg("op"));
}
