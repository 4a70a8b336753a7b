// What ps shows of a process, and its environment. Both live in one run of memory behind argv,
// which is why they are together: a title longer than the arguments grows over where the
// environment was.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/process.h"

extern char** environ;

namespace core {

namespace {

struct TitleRoom {
    char* start = nullptr;
    size_t bytes = 0;
    std::vector<std::string> arguments;
};

TitleRoom& title_room() {
    static TitleRoom& room = *new TitleRoom;
    return room;
}

// environ's entries must stay valid for good: libc and libraries keep pointers into them.
void install(const std::vector<std::string>& entries) {
    auto** table = new char*[entries.size() + 1];
    for (size_t i = 0; i < entries.size(); ++i) table[i] = ::strdup(entries[i].c_str());
    table[entries.size()] = nullptr;
    environ = table;
}

}  // namespace

void open_process_title(int argc, char** argv) {
    TitleRoom& room = title_room();
    if (room.start || argc < 1) return;
    char* end = argv[0];
    for (int i = 0; i < argc; ++i) {
        room.arguments.emplace_back(argv[i]);
        if (argv[i] == end) end = argv[i] + std::strlen(argv[i]) + 1;
    }
    std::vector<std::string> entries;
    for (char** at = environ; at && *at; ++at) {
        entries.emplace_back(*at);
        if (*at == end) end = *at + std::strlen(*at) + 1;
    }
    install(entries);
    room.start = argv[0];
    room.bytes = size_t(end - argv[0]);
}

void set_process_title(Slice title) {
    TitleRoom& room = title_room();
    if (room.bytes < 2) return;
    size_t part = std::min(title.size(), room.bytes - 1);
    std::memcpy(room.start, title.data(), part);
    std::memset(room.start + part, 0, room.bytes - part);
}

const std::vector<std::string>& original_arguments() { return title_room().arguments; }

void set_environment(const std::vector<std::string>& entries) {
    std::vector<std::string> result;
    auto keep = [&](const std::string& name) {
        if (const char* value = std::getenv(name.c_str())) result.push_back(name + "=" + value);
    };
    bool has_zone = false;
    for (const std::string& entry : entries) {
        Slice name = Slice(entry).substr(0, entry.find('='));
        has_zone |= name == "TZ";
        if (name.size() < entry.size()) {
            result.push_back(entry);
        } else {
            keep(entry);
        }
    }
    if (!has_zone) keep("TZ");
    install(result);
}

}  // namespace core
