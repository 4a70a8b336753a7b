// The shared dictionary against a map, its lists, its expiry, and what a killed process leaves.
#include "lua/shared_dict.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <random>

#include "core/clock.h"

namespace lua {
namespace {

using Status = SharedDict::Status;

std::unique_ptr<SharedDict> open_dict(const char* name, size_t bytes) {
    core::Clock::update();
    auto dict = SharedDict::open(name, bytes);
    EXPECT_TRUE(bool(dict));
    return dict ? std::move(*dict) : nullptr;
}

Status set(SharedDict& dict, const std::string& key, const std::string& text, int64_t ttl = 0,
           int mode = SharedDict::any) {
    bool evicted = false;
    return dict.store(mode, key, {SharedDict::string, 0, text}, ttl, 0, evicted);
}

// The text under the key; "(none)" when there is none.
std::string get(SharedDict& dict, const std::string& key) {
    char room[4096];
    SharedDict::Reading out;
    out.buffer = room;
    out.room = sizeof room;
    if (dict.get(key, false, out) != Status::ok) return "(none)";
    std::string text(out.text, out.text_bytes);
    if (out.text != room) free(out.text);
    return text;
}

TEST(SharedDict, AgreesWithAMap) {
    auto dict = open_dict("model", 1 << 20);
    std::map<std::string, std::string> model;
    std::mt19937 random(1);
    for (int n = 0; n < 20000; n++) {
        std::string key = "key" + std::to_string(random() % 200);
        std::string text(random() % 100, char('a' + random() % 26));
        bool known = model.count(key);
        switch (random() % 5) {
        case 0:
            EXPECT_EQ(set(*dict, key, text), Status::ok);
            model[key] = text;
            break;
        case 1:
            EXPECT_EQ(set(*dict, key, text, 0, SharedDict::add),
                      known ? Status::exists : Status::ok);
            model.emplace(key, text);
            break;
        case 2:
            EXPECT_EQ(set(*dict, key, text, 0, SharedDict::replace),
                      known ? Status::ok : Status::not_found);
            if (known) model[key] = text;
            break;
        case 3:
            dict->remove(key);
            model.erase(key);
            break;
        default:
            EXPECT_EQ(get(*dict, key), known ? model[key] : "(none)");
        }
    }
    EXPECT_EQ(dict->keys(0).size(), model.size());
}

TEST(SharedDict, NumbersCount) {
    auto dict = open_dict("numbers", 64 << 10);
    bool evicted = false;
    double amount = 1, start = 10;
    EXPECT_EQ(dict->increment("n", amount, nullptr, 0, evicted), Status::not_found);
    EXPECT_EQ(dict->increment("n", amount, &start, 0, evicted), Status::ok);
    EXPECT_EQ(amount, 11);
    amount = 2.5;
    EXPECT_EQ(dict->increment("n", amount, nullptr, 0, evicted), Status::ok);
    EXPECT_EQ(amount, 13.5);
    set(*dict, "text", "x");
    EXPECT_EQ(dict->increment("text", amount, nullptr, 0, evicted), Status::not_a_number);
}

TEST(SharedDict, EvictsWhatWasUnusedLongest) {
    auto dict = open_dict("eviction", 64 << 10);
    std::string text(500, 'x');
    set(*dict, "kept", text);
    bool evicted = false;
    for (int n = 0; n < 1000; n++) {
        EXPECT_EQ(dict->store(SharedDict::any, std::to_string(n), {SharedDict::string, 0, text}, 0,
                              0, evicted), Status::ok);
        EXPECT_EQ(get(*dict, "kept"), text);
    }
    EXPECT_TRUE(evicted);
    EXPECT_EQ(get(*dict, "0"), "(none)");
    EXPECT_EQ(get(*dict, "999"), text);
    EXPECT_EQ(set(*dict, "new", text, 0, SharedDict::safely), Status::no_memory);
    EXPECT_EQ(set(*dict, "large", std::string(100 << 10, 'x')), Status::no_memory);
}

TEST(SharedDict, ListsAtBothEnds) {
    auto dict = open_dict("lists", 64 << 10);
    uint32_t length = 0;
    EXPECT_EQ(dict->push("l", {SharedDict::string, 0, "b"}, SharedDict::End::left, length),
              Status::ok);
    dict->push("l", {SharedDict::string, 0, "a"}, SharedDict::End::left, length);
    dict->push("l", {SharedDict::number, 3, {}}, SharedDict::End::right, length);
    EXPECT_EQ(length, 3u);
    SharedDict::Type type;
    double number = 0;
    std::string text;
    EXPECT_EQ(dict->pop("l", SharedDict::End::right, type, number, text), Status::ok);
    EXPECT_EQ(number, 3);
    EXPECT_EQ(dict->pop("l", SharedDict::End::left, type, number, text), Status::ok);
    EXPECT_EQ(text, "a");
    EXPECT_EQ(dict->pop("l", SharedDict::End::left, type, number, text), Status::ok);
    EXPECT_EQ(dict->pop("l", SharedDict::End::left, type, number, text), Status::not_found);
    set(*dict, "text", "x");
    EXPECT_EQ(dict->push("text", {SharedDict::number, 3, {}}, SharedDict::End::left, length),
              Status::not_a_list);
}

TEST(SharedDict, ExpiredValuesAreStale) {
    auto dict = open_dict("expiry", 64 << 10);
    set(*dict, "k", "v", 5);
    EXPECT_EQ(get(*dict, "k"), "v");
    int64_t left = 0;
    EXPECT_TRUE(dict->ttl_ms("k", left));
    EXPECT_GT(left, 0);
    usleep(10000);
    core::Clock::update();
    EXPECT_EQ(get(*dict, "k"), "(none)");
    EXPECT_TRUE(dict->ttl_ms("k", left));
    EXPECT_LT(left, 0);
    SharedDict::Reading out;
    char room[16];
    out.buffer = room;
    out.room = sizeof room;
    EXPECT_EQ(dict->get("k", true, out), Status::ok);
    EXPECT_TRUE(out.stale);
    EXPECT_EQ(dict->flush_expired(0), 1);
    set(*dict, "k", "v");
    EXPECT_TRUE(dict->ttl_ms("k", left));
    EXPECT_EQ(left, 0);
    EXPECT_TRUE(dict->set_ttl("k", 1000));
    EXPECT_TRUE(dict->ttl_ms("k", left));
    EXPECT_GT(left, 0);
    EXPECT_FALSE(dict->ttl_ms("missing", left));
}

// Every value is its key repeated, so that a torn one shows.
std::string value_for(const std::string& key, unsigned times) {
    std::string text;
    for (unsigned n = 0; n < times; n++) text += key;
    return text;
}

[[noreturn]] void change_for_ever(SharedDict& dict, unsigned seed) {
    std::mt19937 random(seed);
    uint32_t length = 0;
    SharedDict::Type type;
    double number = 0;
    std::string text;
    while (true) {
        std::string key = "key" + std::to_string(random() % 300);
        switch (random() % 6) {
        case 0: dict.remove(key); break;
        case 1: dict.push("list" + key, {SharedDict::number, 1, {}}, SharedDict::End::right,
                          length); break;
        case 2: dict.pop("list" + key, SharedDict::End::left, type, number, text); break;
        case 3: get(dict, key); break;
        default: set(dict, key, value_for(key, 1 + random() % 40));
        }
    }
}

// Each process changes keys of its own, none of which may get lost but the one it was writing.
constexpr int own_keys = 150;
constexpr int processes = 2;

std::string own_key(int process, int n) {
    return "own" + std::to_string(process) + "." + std::to_string(n);
}

[[noreturn]] void change_own(SharedDict& dict, int process, unsigned seed, volatile int& writing) {
    std::mt19937 random(seed);
    while (true) {
        int n = int(random() % own_keys);
        std::string key = own_key(process, n);
        std::string value = value_for(key, 1 + random() % 60);
        writing = n;
        set(dict, key, value);
        writing = -1;
        if (random() % 8) continue;
        double count = 1;
        double start = 0;
        bool evicted;
        dict.increment("count" + std::to_string(process), count, &start, 0, evicted);
    }
}

pid_t start_process(SharedDict& dict, int process, unsigned seed, volatile int& writing) {
    pid_t child = fork();
    if (child) return child;
    if (seed % 4 == 0) change_for_ever(dict, seed);
    change_own(dict, process, seed, writing);
}

void expect_whole(SharedDict& dict) {
    for (const std::string& key : dict.keys(0)) {
        if (!key.starts_with("key") && !key.starts_with("own")) continue;
        std::string text = get(dict, key);
        EXPECT_EQ(text, value_for(key, unsigned(text.size() / key.size()))) << key;
    }
    EXPECT_TRUE(dict.zone().slab().check());
}

// Puts back what is missing: at most the key that was being written.
void expect_own_keys(SharedDict& dict, int process, int was_writing) {
    for (int n = 0; n < own_keys; n++) {
        std::string key = own_key(process, n);
        if (get(dict, key) != "(none)") continue;
        EXPECT_EQ(n, was_writing) << key << " is lost";
        set(dict, key, key);
    }
}

// Kills processes in the middle of their changes, and the second while it may be repairing what the
// first left. RESTY_KILLS says how many (100).
TEST(SharedDict, SurvivesTheDeathOfProcesses) {
    auto dict = open_dict("deaths", 4 << 20);
    set(*dict, "constant", "here");
    auto* writing = static_cast<volatile int*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (int process = 0; process < processes; process++)
        for (int n = 0; n < own_keys; n++)
            set(*dict, own_key(process, n), own_key(process, n));
    const char* wanted = getenv("RESTY_KILLS");
    int kills = wanted ? atoi(wanted) : 100;
    std::mt19937 random(2);
    for (int n = 0; n < kills && !HasFailure(); n += processes) {
        pid_t children[processes];
        for (int process = 0; process < processes; process++) {
            writing[process] = -1;
            children[process] =
                start_process(*dict, process, unsigned(n + process + 1), writing[process]);
        }
        usleep(500 + random() % 3000);
        for (pid_t child : children) {
            kill(child, SIGKILL);
            waitpid(child, nullptr, 0);
            usleep(random() % 300);
        }
        EXPECT_EQ(get(*dict, "constant"), "here");
        expect_whole(*dict);
        for (int process = 0; process < processes; process++)
            expect_own_keys(*dict, process, writing[process]);
    }
}

}  // namespace
}  // namespace lua
