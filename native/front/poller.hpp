// Which descriptors can be read or written: by epoll, or by poll where there is none. For one thread.
#pragma once

#include <stdexcept>
#include <vector>

#if defined(__linux__)
#include <sys/epoll.h>
#include <unistd.h>
#else
#include <poll.h>

#include <algorithm>
#endif

namespace native {

struct Ready {
  void* of;
  bool in, out, is_broken;
};

#if defined(__linux__)

class Poller {
 public:
  Poller() : descriptor_(epoll_create1(EPOLL_CLOEXEC)), events_(256) {
    if (descriptor_ < 0) throw std::runtime_error("no epoll could be opened");
    ready_.reserve(events_.size());
  }
  Poller(const Poller&) = delete;
  ~Poller() { close(descriptor_); }

  void add(int descriptor, void* of, bool in, bool out) { control(EPOLL_CTL_ADD, descriptor, of, in, out); }
  void change(int descriptor, void* of, bool in, bool out) { control(EPOLL_CTL_MOD, descriptor, of, in, out); }
  void remove(int descriptor) { epoll_ctl(descriptor_, EPOLL_CTL_DEL, descriptor, nullptr); }

  // Wait for some milliseconds at most; −1: for ever.
  const std::vector<Ready>& wait(int most_ms) {
    ready_.clear();
    const int count = epoll_wait(descriptor_, events_.data(), static_cast<int>(events_.size()), most_ms);
    for (int k = 0; k < count; k++) {
      const uint32_t found = events_[static_cast<size_t>(k)].events;
      ready_.push_back({events_[static_cast<size_t>(k)].data.ptr, (found & EPOLLIN) != 0, (found & EPOLLOUT) != 0,
                        (found & (EPOLLERR | EPOLLHUP)) != 0});
    }
    return ready_;
  }

 private:
  void control(int what, int descriptor, void* of, bool in, bool out) {
    epoll_event event{};
    event.events = (in ? EPOLLIN : 0u) | (out ? EPOLLOUT : 0u);
    event.data.ptr = of;
    epoll_ctl(descriptor_, what, descriptor, &event);
  }

  const int descriptor_;
  std::vector<epoll_event> events_;
  std::vector<Ready> ready_;
};

#else

class Poller {
 public:
  void add(int descriptor, void* of, bool in, bool out) {
    watched_.push_back({descriptor, 0, 0});
    of_.push_back(of);
    change(descriptor, of, in, out);
  }
  void change(int descriptor, void*, bool in, bool out) {
    watched_[place_of(descriptor)].events = static_cast<short>((in ? POLLIN : 0) | (out ? POLLOUT : 0));
  }
  void remove(int descriptor) {
    const auto place = static_cast<ptrdiff_t>(place_of(descriptor));
    watched_.erase(watched_.begin() + place);
    of_.erase(of_.begin() + place);
  }

  // Wait for some milliseconds at most; −1: for ever.
  const std::vector<Ready>& wait(int most_ms) {
    ready_.clear();
    if (poll(watched_.data(), static_cast<nfds_t>(watched_.size()), most_ms) <= 0) return ready_;
    for (size_t k = 0; k < watched_.size(); k++)
      if (const short found = watched_[k].revents)
        ready_.push_back({of_[k], (found & POLLIN) != 0, (found & POLLOUT) != 0, (found & (POLLERR | POLLHUP | POLLNVAL)) != 0});
    return ready_;
  }

 private:
  size_t place_of(int descriptor) const {
    const auto found = std::find_if(watched_.begin(), watched_.end(), [&](const pollfd& one) { return one.fd == descriptor; });
    return static_cast<size_t>(found - watched_.begin());
  }

  std::vector<pollfd> watched_;
  std::vector<void*> of_;
  std::vector<Ready> ready_;
};

#endif

}  // namespace native
