// Shared memory: the slab allocator against a model, the robust lock, zones across reloads.
#include "core/shm.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <map>
#include <random>
#include <vector>

namespace {

using namespace core;

struct Memory {
    size_t bytes;
    void* at;
    explicit Memory(size_t size) : bytes(size) {
        at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    ~Memory() { munmap(at, bytes); }
};

TEST(Slab, SizesAndAlignment) {
    Memory memory(1 << 20);
    Slab* slab = Slab::create(memory.at, memory.bytes);
    ASSERT_TRUE(slab);
    EXPECT_TRUE(slab->check());
    size_t whole = slab->free_page_bytes();
    EXPECT_EQ(whole, slab->total_page_bytes());
    struct { size_t asked, given; } cases[] = {{0, 8}, {1, 8}, {8, 8}, {9, 16}, {24, 32},
        {1024, 1024}, {1025, 2048}, {2048, 2048}, {2049, 4096}, {4097, 8192}, {70000, 73728}};
    for (auto [asked, given] : cases) {
        void* it = slab->allocate(asked);
        ASSERT_TRUE(it) << asked;
        EXPECT_EQ(slab->size_of(it), given);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(it) % std::min<size_t>(given, 4096), 0u) << asked;
        EXPECT_EQ(slab->used_bytes(), given);
        std::memset(it, 0xff, given);
        EXPECT_TRUE(slab->check()) << asked;
        EXPECT_TRUE(slab->free(it));
        EXPECT_EQ(slab->free_page_bytes(), whole);
        EXPECT_TRUE(slab->check()) << asked;
    }
}

TEST(Slab, RefusesWhatIsNotItsOwn) {
    Memory memory(1 << 16);
    Slab* slab = Slab::create(memory.at, memory.bytes);
    int other;
    auto* slot = static_cast<char*>(slab->allocate(64));
    auto* run = static_cast<char*>(slab->allocate(9000));
    EXPECT_FALSE(slab->free(&other));
    EXPECT_FALSE(slab->free(nullptr));
    EXPECT_FALSE(slab->free(slot + 1));
    EXPECT_FALSE(slab->free(slot + 64));    // never handed out
    EXPECT_FALSE(slab->free(run + 4096));
    EXPECT_FALSE(slab->free(memory.at));
    EXPECT_TRUE(slab->check());
    EXPECT_TRUE(slab->free(run));
    EXPECT_FALSE(slab->free(run));
    EXPECT_TRUE(slab->free(slot));
    EXPECT_FALSE(slab->free(slot));
    EXPECT_TRUE(slab->check());
}

TEST(Slab, FullAndTooSmall) {
    Memory memory(1 << 16);
    EXPECT_FALSE(Slab::create(memory.at, 4096));
    Slab* slab = Slab::create(memory.at, memory.bytes);
    EXPECT_FALSE(slab->allocate(1 << 20));
    EXPECT_FALSE(slab->allocate(SIZE_MAX));
    std::vector<void*> all;
    while (void* it = slab->allocate(100)) all.push_back(it);
    EXPECT_EQ(slab->free_page_bytes(), 0u);
    EXPECT_EQ(all.size(), slab->total_page_bytes() / 128);
    EXPECT_EQ(slab->failures(), 3u);
    EXPECT_TRUE(slab->check());
    for (void* it : all) EXPECT_TRUE(slab->free(it));
    EXPECT_EQ(slab->free_page_bytes(), slab->total_page_bytes());
    EXPECT_TRUE(slab->allocate(slab->total_page_bytes()));   // all joined again
}

TEST(Slab, RandomAgainstModel) {
    Memory memory(2 << 20);
    Slab* slab = Slab::create(memory.at, memory.bytes);
    std::mt19937 random(42);
    std::map<char*, std::pair<size_t, char>> live;
    for (int step = 0; step < 60000; ++step) {
        bool grow = live.empty() || random() % 100 < (step / 10000 % 2 ? 40 : 60);
        if (grow) {
            size_t size = random() % 10 < 8 ? random() % 3000 : random() % 200000;
            auto* it = static_cast<char*>(slab->allocate(size));
            if (!it) continue;
            size_t room = slab->size_of(it);
            ASSERT_GE(room, size);
            auto after = live.lower_bound(it);
            if (after != live.end()) {
                ASSERT_GE(after->first, it + room);
            }
            if (after != live.begin()) {
                auto before = std::prev(after);
                ASSERT_LE(before->first + before->second.first, it);
            }
            char mark = char(random());
            std::memset(it, mark, room);
            live[it] = {room, mark};
        } else {
            auto at = std::next(live.begin(), long(random() % live.size()));
            auto [room, mark] = at->second;
            ASSERT_EQ(at->first[0], mark);
            ASSERT_EQ(at->first[room - 1], mark);
            ASSERT_TRUE(slab->free(at->first));
            live.erase(at);
        }
        if (step % 1000 == 0) {
            ASSERT_TRUE(slab->check()) << step;
        }
    }
    for (auto& [at, what] : live) ASSERT_TRUE(slab->free(at));
    EXPECT_TRUE(slab->check());
    EXPECT_EQ(slab->used_bytes(), 0u);
    EXPECT_EQ(slab->free_page_bytes(), slab->total_page_bytes());
}

TEST(Slab, CheckFindsDamage) {
    Memory memory(1 << 16);
    Slab* slab = Slab::create(memory.at, memory.bytes);
    void* one = slab->allocate(64);
    void* two = slab->allocate(64);
    slab->free(one);
    slab->free(two);
    one = slab->allocate(64);
    two = slab->allocate(64);
    slab->free(one);
    EXPECT_TRUE(slab->check());
    std::memset(one, 0xee, 64);   // use after free of the free list's link
    EXPECT_FALSE(slab->check());
    slab->reset();
    EXPECT_TRUE(slab->check());
}

char tag_one, tag_two;

TEST(ShmZone, LivesAcrossReloads) {
    auto first = ShmZone::find_or_create("dogs", 1 << 20, &tag_one);
    ASSERT_TRUE(first);
    EXPECT_EQ((*first)->root<int>(), nullptr);
    int* value = (*first)->make_locked<int>(7);
    (*first)->set_root(value);
    {
        auto again = ShmZone::find_or_create("dogs", 1 << 20, &tag_one);
        EXPECT_EQ(*again, *first);
        auto larger = ShmZone::find_or_create("dogs", 2 << 20, &tag_one);
        EXPECT_NE(*larger, *first);
        auto other = ShmZone::find_or_create("dogs", 1 << 20, &tag_two);
        EXPECT_NE(*other, *first);
        EXPECT_EQ((*other)->root<int>(), nullptr);
    }
    // A rejected configuration's zones are gone, the old one's is still found.
    auto again = ShmZone::find_or_create("dogs", 1 << 20, &tag_one);
    EXPECT_EQ(*(*again)->root<int>(), 7);
    first->reset();
    again->reset();
    auto fresh = ShmZone::find_or_create("dogs", 1 << 20, &tag_one);
    EXPECT_EQ((*fresh)->root<int>(), nullptr);
    EXPECT_FALSE(ShmZone::find_or_create("tiny", 4096, &tag_one));
}

TEST(ShmZone, SharedBetweenProcesses) {
    auto zone = *ShmZone::find_or_create("shared", 1 << 20, &tag_one);
    auto* counter = zone->make_locked<long>(0);
    constexpr int children = 4, rounds = 20000;
    for (int i = 0; i < children; ++i) {
        if (fork() == 0) {
            for (int k = 0; k < rounds; ++k) {
                ShmLock lock(*zone);
                void* it = zone->allocate_locked(size_t(k % 500));
                ++*counter;
                zone->free_locked(it);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < children; ++i) {
        int status;
        wait(&status);
        EXPECT_EQ(status, 0);
    }
    EXPECT_EQ(*counter, long(children) * rounds);
    EXPECT_TRUE(zone->slab().check());
}

TEST(ShmZone, HolderDies) {
    auto zone = *ShmZone::find_or_create("dying", 1 << 20, &tag_one);
    int repaired = 0;
    zone->on_owner_death([&](ShmZone& it) {
        ++repaired;
        if (!it.slab().check()) it.wipe();
    });
    for (int i = 0; i < 3; ++i) {
        pid_t child = fork();
        if (child == 0) {
            zone->lock();
            kill(getpid(), SIGKILL);
        }
        int status;
        waitpid(child, &status, 0);
        testing::internal::CaptureStderr();
        { ShmLock lock(*zone); }
        EXPECT_NE(testing::internal::GetCapturedStderr().find(
                      "a process died holding the lock of shared memory zone \"dying\""),
                  std::string::npos);
        EXPECT_EQ(repaired, i + 1);
        { ShmLock lock(*zone); }   // and all is well
    }
}

// Processes killed at random moments inside the allocator: the survivors never hang, and what is
// found damaged is emptied.
TEST(ShmZone, KilledAnywhere) {
    auto zone = *ShmZone::find_or_create("killed", 1 << 20, &tag_one);
    zone->on_owner_death([&](ShmZone& it) {
        if (!it.slab().check()) it.wipe();
    });
    testing::internal::CaptureStderr();
    for (int i = 0; i < 60; ++i) {
        pid_t child = fork();
        if (child == 0) {
            for (unsigned k = 0;; ++k) {
                ShmLock lock(*zone);
                void* it = zone->allocate_locked(k * 37 % 5000);
                zone->free_locked(it);
            }
        }
        usleep(useconds_t(500 + i * 13));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        ShmLock lock(*zone);
        zone->free_locked(zone->allocate_locked(100));
        EXPECT_TRUE(zone->slab().check()) << i;
    }
    testing::internal::GetCapturedStderr();
}

}  // namespace
