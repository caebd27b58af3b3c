// What Python sees of the replay buffer. Shapes and dtypes are checked in diamond_fast.replay, sizes here.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>

#include "batch.hpp"
#include "philox.hpp"
#include "pool.hpp"
#include "prefetch.hpp"
#include "sampler.hpp"
#include "store.hpp"

namespace py = pybind11;
using namespace replay;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
const T* data_of(const Array<T>& array, int64_t size, const char* name) {
  if (array.size() != size) {
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(size) + " elements, got " +
                                std::to_string(array.size()));
  }
  return array.data();
}

void append(Store& store, const Array<uint8_t>& obs, const Array<uint8_t>& act, const Array<float>& rew,
            const Array<bool>& end, const Array<bool>& trunc, const Array<uint8_t>& final_obs) {
  const int64_t n = store.num_envs(), frame_bytes = store.frame_bytes();
  store.append(data_of(obs, n * frame_bytes, "obs"), data_of(act, n * store.act_bytes(), "act"), data_of(rew, n, "rew"),
               data_of(end, n, "end"), data_of(trunc, n, "trunc"), data_of(final_obs, n * frame_bytes, "final_obs"));
}

// A prefetcher that keeps the memory it fills alive.
class PyPrefetcher {
 public:
  PyPrefetcher(std::shared_ptr<Store> store, SamplerOptions options, BatchLayout layout, int64_t num_threads)
      : num_bytes_(layout.num_bytes), prefetcher_(std::move(store), std::move(options), layout, num_threads) {}

  void ask(uint64_t batch, Array<uint8_t> block) {
    data_of(block, num_bytes_, "block");
    blocks_.push_back(std::move(block));
    try {
      prefetcher_.ask(batch, blocks_.back().mutable_data());
    } catch (...) {
      blocks_.pop_back();
      throw;
    }
  }

  void take() {
    {
      py::gil_scoped_release release;
      prefetcher_.take();
    }
    blocks_.pop_front();
  }

 private:
  const int64_t num_bytes_;
  std::deque<Array<uint8_t>> blocks_;
  Prefetcher prefetcher_;  // goes before the blocks
};

// Frames of a file, or of memory, as an array [count, bytes] that keeps the store alive.
py::array frames_of(const py::object& self, const FrameFile& file, int64_t first, int64_t count) {
  py::array_t<uint8_t> array({count, file.frame_bytes()}, file.at(first), self);
  array.attr("flags").attr("writeable") = false;
  return array;
}

// The slots' arrays in place; the store stays alive as long as they do.
py::tuple slots(py::object self, int64_t first, int64_t count) {
  Store& store = self.cast<Store&>();
  store.check_slots(first, count);
  py::array frames = store.file() ? frames_of(self, *store.file(), first, count)
                                  : py::array_t<uint8_t>({count, store.frame_bytes()}, store.frame(first), self);
  return py::make_tuple(frames, py::array_t<uint8_t>({count, store.act_bytes()}, store.act(first), self),
                        py::array_t<float>(count, store.rew(first), self),
                        py::array_t<uint8_t>(count, store.flags(first), self));
}

py::object full_slots(py::object self, int64_t first, int64_t count) {
  Store& store = self.cast<Store&>();
  store.check_slots(first, count);
  if (!store.full()) return py::none();
  return frames_of(self, *store.full(), first, count);
}

py::array_t<uint8_t> take_block(const std::shared_ptr<BlockPool>& pool, int64_t num_bytes) {
  if (num_bytes < 0 || static_cast<uint64_t>(num_bytes) > pool->num_bytes()) {
    throw std::invalid_argument("num_bytes: a block holds " + std::to_string(pool->num_bytes()));
  }
  struct Loan {
    std::shared_ptr<BlockPool> pool;
    void* block;
  };
  auto loan = std::make_unique<Loan>(Loan{pool, pool->take()});
  void* block = loan->block;
  py::capsule owner(loan.release(), [](void* pointer) {
    std::unique_ptr<Loan> loan(static_cast<Loan*>(pointer));
    loan->pool->give_back(loan->block);
  });
  return py::array_t<uint8_t>(num_bytes, static_cast<uint8_t*>(block), owner);
}

}  // namespace

PYBIND11_MODULE(_replay, m) {
  m.doc() = "The compiled core of diamond_fast.replay.";

  m.attr("END") = static_cast<int>(kEnd);
  m.attr("TRUNC") = static_cast<int>(kTrunc);
  m.attr("FINAL") = static_cast<int>(kFinal);
  m.attr("FIRST") = static_cast<int>(kFirst);
  m.attr("MAX_ENVS") = kMaxEnvs;

  py::class_<Episode>(m, "Episode")
      .def_readonly("first_slot", &Episode::first_slot)
      .def_readonly("length", &Episode::length)
      .def_readonly("has_final", &Episode::has_final);

  py::class_<View, std::shared_ptr<View>>(m, "View")
      .def_property_readonly("num_episodes", &View::num_episodes)
      .def_property_readonly("num_steps", &View::num_steps)
      .def_readonly("reward_counts", &View::reward_counts)
      .def_readonly("end_counts", &View::end_counts)
      .def("lengths",
           [](const View& view) {
             py::array_t<int64_t> lengths(view.num_episodes());
             for (int64_t i = 0; i < view.num_episodes(); ++i) lengths.mutable_at(i) = view.episodes[i].length;
             return lengths;
           })
      .def("episode", [](const View& view, int64_t i) { return view.episodes.at(i); });

  py::class_<BatchLayout>(m, "BatchLayout")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t>(), py::arg("batch_size"), py::arg("seq_length"),
           py::arg("frame_bytes"), py::arg("act_bytes") = sizeof(int64_t), py::arg("full_bytes") = 0)
      .def_readonly("batch_size", &BatchLayout::batch_size)
      .def_readonly("seq_length", &BatchLayout::seq_length)
      .def_readonly("frame_bytes", &BatchLayout::frame_bytes)
      .def_readonly("full_bytes", &BatchLayout::full_bytes)
      .def_readonly("num_bytes", &BatchLayout::num_bytes)
      .def_readonly("frames", &BatchLayout::frames)
      .def_readonly("act", &BatchLayout::act)
      .def_readonly("rew", &BatchLayout::rew)
      .def_readonly("end", &BatchLayout::end)
      .def_readonly("trunc", &BatchLayout::trunc)
      .def_readonly("mask_padding", &BatchLayout::mask_padding)
      .def_readonly("pixel_mask", &BatchLayout::pixel_mask)
      .def_readonly("episode", &BatchLayout::episode)
      .def_readonly("start", &BatchLayout::start)
      .def_readonly("full", &BatchLayout::full);

  py::class_<BlockPool, std::shared_ptr<BlockPool>>(m, "BlockPool")
      .def(py::init<size_t>(), py::arg("num_bytes"))
      .def("take", &take_block, py::arg("num_bytes"));

  py::class_<SamplerOptions>(m, "SamplerOptions")
      .def(py::init([](int64_t batch_size, int64_t seq_length, std::vector<double> weights, bool beyond_end,
                       uint64_t seed, uint32_t stream, double event_share, double first_share) {
             SamplerOptions options{batch_size, seq_length, std::move(weights), beyond_end,
                                    seed,       stream,     event_share,        first_share};
             check(options);
             return options;
           }),
           py::arg("batch_size"), py::arg("seq_length"), py::arg("weights"), py::arg("beyond_end"), py::arg("seed"),
           py::arg("stream"), py::arg("event_share") = 0.0, py::arg("first_share") = 0.0);

  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const FileError& error) {
      errno = error.code;
      PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
    }
  });

  py::class_<FrameFile, std::shared_ptr<FrameFile>>(m, "FrameFile")
      .def(py::init<const std::string&, int64_t>(), py::arg("path"), py::arg("frame_bytes"))
      .def_property_readonly("frame_bytes", &FrameFile::frame_bytes)
      .def_property_readonly("num_slots", &FrameFile::num_slots);

  py::class_<Store, std::shared_ptr<Store>>(m, "Store")
      .def(py::init<int64_t, int64_t, int64_t, int64_t>(), py::arg("frame_bytes"), py::arg("num_envs"),
           py::arg("capacity"), py::arg("act_bytes") = sizeof(int64_t))
      .def(py::init([](std::shared_ptr<FrameFile> frames, std::shared_ptr<FrameFile> full, int64_t act_bytes) {
             return std::make_shared<Store>(std::move(frames), std::move(full), act_bytes);
           }),
           py::arg("frames").none(false), py::arg("full"), py::arg("act_bytes"))
      .def("append", &append)
      .def("publish_running", &Store::publish_running)
      .def("close_running", &Store::close_running)
      .def("adopt", &Store::adopt, py::arg("num_steps"), py::arg("env_slots"))
      .def("view", &Store::view)
      .def_property_readonly("num_envs", &Store::num_envs)
      .def_property_readonly("num_slots", &Store::num_slots)
      .def("env_start",
           [](const Store& store, int64_t env) {
             store.env_used(env);  // throws if there is no such environment
             return store.env_start(env);
           })
      .def("check_flags", &Store::check_flags, py::arg("env"), py::arg("num_steps"), py::arg("num_slots"))
      .def("env_used", &Store::env_used)
      .def_property_readonly("num_vector_steps", &Store::num_vector_steps)
      .def("slots", &slots, py::arg("first"), py::arg("count"))
      .def("full_slots", &full_slots, py::arg("first"), py::arg("count"))
      // Draws batch number `batch` into the block.
      .def(
          "draw_into",
          [](Store& store, const SamplerOptions& options, uint64_t batch, const BatchLayout& layout,
             Array<uint8_t> block) {
            uint8_t* memory = block.mutable_data();
            data_of(block, layout.num_bytes, "block");
            py::gil_scoped_release release;
            const auto view = store.view();
            fill(store, *view, draw(*view, store, options, batch), layout, memory);
          },
          py::arg("options"), py::arg("batch"), py::arg("layout"), py::arg("block").noconvert())
      // Copies the given (episode, start) segments into the block.
      .def(
          "cut_into",
          [](Store& store, const std::vector<std::pair<int64_t, int64_t>>& segments, const BatchLayout& layout,
             Array<uint8_t> block) {
            uint8_t* memory = block.mutable_data();
            data_of(block, layout.num_bytes, "block");
            std::vector<Cut> cuts;
            for (const auto& [episode, start] : segments) cuts.push_back({episode, start});
            py::gil_scoped_release release;
            const auto view = store.view();
            fill(store, *view, cuts, layout, memory);
          },
          py::arg("segments"), py::arg("layout"), py::arg("block").noconvert());

  py::class_<PyPrefetcher>(m, "Prefetcher")
      .def(py::init<std::shared_ptr<Store>, SamplerOptions, BatchLayout, int64_t>(), py::arg("store").none(false),
           py::arg("options"), py::arg("layout"), py::arg("num_threads"))
      .def("ask", &PyPrefetcher::ask, py::arg("batch"), py::arg("block").noconvert())
      .def("take", &PyPrefetcher::take);

  m.def("philox4x32", &philox4x32, py::arg("counter"), py::arg("key"),
        "One block of Philox4x32-10: four 32-bit numbers from a counter of four and a key of two words.");
}
