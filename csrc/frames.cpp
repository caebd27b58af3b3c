#include "frames.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

namespace replay {

template <typename T>
Reserved<T>::Reserved(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(T)) {
  void* memory =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<T*>(memory);
}

template <typename T>
void Reserved<T>::use_huge_pages() {
#ifdef MADV_HUGEPAGE
  madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}

template <typename T>
Reserved<T>::~Reserved() {
  munmap(data_, bytes_);
}

template class Reserved<uint8_t>;
template class Reserved<float>;

FileError::FileError(int code, const std::string& path)
    : std::runtime_error(path + ": " + std::strerror(code)), code(code), path(path) {}

FrameFile::FrameFile(const std::string& path, int64_t frame_bytes)
    : path_(path), frame_bytes_(frame_bytes), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw FileError(errno, path);
  struct stat status;
  const int failed = fstat(descriptor_, &status) != 0 ? errno : 0;
  num_slots_ = failed ? 0 : status.st_size / frame_bytes;
  bytes_ = static_cast<size_t>(num_slots_ * frame_bytes);
  void* memory = bytes_ ? mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, descriptor_, 0) : nullptr;
  if (failed || memory == MAP_FAILED) {
    const int code = failed ? failed : errno;
    close(descriptor_);
    throw FileError(code, path);
  }
  data_ = static_cast<const uint8_t*>(memory);
#ifdef POSIX_FADV_RANDOM
  posix_fadvise(descriptor_, 0, 0, POSIX_FADV_RANDOM);  // what lies behind a segment is of no use
#endif
}

FrameFile::~FrameFile() {
  if (bytes_) munmap(const_cast<uint8_t*>(data_), bytes_);
  close(descriptor_);
}

void FrameFile::will_read(int64_t slot, int64_t count) const {
#ifdef POSIX_FADV_WILLNEED
  posix_fadvise(descriptor_, slot * frame_bytes_, count * frame_bytes_, POSIX_FADV_WILLNEED);
#else
  static_cast<void>(slot), static_cast<void>(count);
#endif
}

void FrameFile::read(int64_t slot, int64_t count, uint8_t* to) const {
  int64_t offset = slot * frame_bytes_, left = count * frame_bytes_;
  while (left > 0) {
    const ssize_t got = pread(descriptor_, to, static_cast<size_t>(left), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw FileError(got < 0 ? errno : EIO, path_);
    to += got, offset += got, left -= got;
  }
}

}  // namespace replay
