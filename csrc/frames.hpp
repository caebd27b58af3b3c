// Where frames lie: in memory that is written once, or in a file that is only read.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace replay {

// Zeroed memory that takes address space at once, but physical pages only as they are written.
template <typename T>
class Reserved {
 public:
  explicit Reserved(int64_t count);
  ~Reserved();
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  void use_huge_pages();  // best effort
  T* at(int64_t index) { return data_ + index; }
  const T* at(int64_t index) const { return data_ + index; }

 private:
  T* data_;
  size_t bytes_;
};

// The system refused something about a file.
struct FileError : std::runtime_error {
  FileError(int code, const std::string& path);
  int code;  // of errno
  std::string path;
};

// Slots of equal size, one after another, in a file. Batches are read with system calls, so that they take no memory
// but their own, and a file that is cut short or a disk that fails is an error and no signal.
class FrameFile {
 public:
  // Throws FileError.
  FrameFile(const std::string& path, int64_t frame_bytes);
  ~FrameFile();
  FrameFile(const FrameFile&) = delete;
  FrameFile& operator=(const FrameFile&) = delete;

  int64_t frame_bytes() const { return frame_bytes_; }
  int64_t num_slots() const { return num_slots_; }  // whole ones
  // A mapping of the whole file, whose pages take memory only while the system has some to spare.
  const uint8_t* at(int64_t slot) const { return data_ + slot * frame_bytes_; }
  // Lets the system fetch slots that will be read soon. Best effort.
  void will_read(int64_t slot, int64_t count) const;
  // Copies slots [slot, slot + count), which lie in the file. Throws FileError.
  void read(int64_t slot, int64_t count, uint8_t* to) const;

 private:
  const std::string path_;
  const int64_t frame_bytes_;
  int descriptor_;
  int64_t num_slots_;
  size_t bytes_;
  const uint8_t* data_ = nullptr;
};

}  // namespace replay
