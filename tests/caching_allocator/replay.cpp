// Feeds a trace to PyTorch's own allocator: the capacity in bytes, then "a KEY BYTES" or "f KEY" a
// line. Prints "ALLOCATED RESERVED" after each, then "end" or "oom", both peaks and the retries.

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/PeerToPeerAccess.h>
#include <unistd.h>

#include <cstdio>
#include <unordered_map>

extern "C" size_t capacity_bytes;

int main() {
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  allocator->init(1);
  c10::cuda::detail::init_p2p_access_cache(1);
  if (scanf("%zu", &capacity_bytes) != 1) return 2;

  std::unordered_map<long, void*> used;
  const char* outcome = "end";
  char kind;
  long key;
  while (scanf(" %c %ld", &kind, &key) == 2) {
    if (kind == 'a') {
      size_t num_bytes;
      if (scanf("%zu", &num_bytes) != 1) return 2;
      try {
        used[key] = allocator->raw_alloc_with_stream(num_bytes, nullptr);
      } catch (const c10::OutOfMemoryError&) {
        outcome = "oom";
        break;
      }
    } else {
      if (used.at(key)) allocator->raw_delete(used.at(key));
      used.erase(key);
    }
    auto stats = allocator->getDeviceStats(0);
    printf("%ld %ld\n", (long)stats.allocated_bytes[0].current,
           (long)stats.reserved_bytes[0].current);
  }
  auto stats = allocator->getDeviceStats(0);
  printf("%s %ld %ld %ld\n", outcome, (long)stats.allocated_bytes[0].peak,
         (long)stats.reserved_bytes[0].peak, (long)stats.num_alloc_retries);
  fflush(stdout);
  _exit(0);
}
