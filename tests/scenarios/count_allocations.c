/* Preloaded into a server by test_allocations.py: counts what is taken from the heap. With
 * AddressSanitizer (COUNT_BY_HOOK) through its hooks, otherwise by standing in front of malloc. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>

static uint64_t count;

__attribute__((visibility("default"))) uint64_t counted_allocations(void) { return count; }

#ifdef COUNT_BY_HOOK

int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *));

static void taken(const volatile void *block, size_t size) {
    (void)block;
    (void)size;
    ++count;
}

static void freed(const volatile void *block) { (void)block; }

__attribute__((constructor)) static void install(void) {
    __sanitizer_install_malloc_and_free_hooks(taken, freed);
}

#else

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size) {
    ++count;
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    ++count;
    return __libc_calloc(number, size);
}

void *realloc(void *block, size_t size) {
    ++count;
    return __libc_realloc(block, size);
}

#endif
