// DNS replies (RFC 1035 4.1) and the hosts file.
#include "core/dns_reply.h"

#include <ares.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"

namespace core {

namespace {

constexpr size_t name_bytes_max = 253, label_bytes_max = 63;
constexpr int type_cname = 5, class_in = 1;
constexpr int header_bytes = 12;

// A cursor over a reply; every taker moves on, or marks the reply as bad.
struct ReplyReader {
    const uint8_t* start;
    int size;
    int at = 0;
    bool good = true;

    bool has(int bytes) {
        if (size - at < bytes) good = false;
        return good;
    }
    uint16_t number16() {
        if (!has(2)) return 0;
        at += 2;
        return uint16_t(start[at - 2] << 8 | start[at - 1]);
    }
    uint32_t number32() {
        uint32_t high = number16();
        return high << 16 | number16();
    }
    std::string name() {
        char* text = nullptr;
        long used = 0;
        if (!has(1) || ares_expand_name(start + at, start, size, &text, &used) != ARES_SUCCESS) {
            good = false;
            return {};
        }
        at += int(used);
        std::string result = text;
        ares_free_string(text);
        return result;
    }
};

Address address_of(int type, const uint8_t* bytes) {
    Address address;
    if (type == dns_type_a) {
        address.v4 = {};
        address.v4.sin_family = AF_INET;
        std::memcpy(&address.v4.sin_addr, bytes, 4);
        address.size = sizeof address.v4;
    } else {
        address.v6 = {};
        address.v6.sin6_family = AF_INET6;
        std::memcpy(&address.v6.sin6_addr, bytes, 16);
        address.size = sizeof address.v6;
    }
    return address;
}

// Takes one record of the wanted type; the reader stands at its data. False: the name in it is none
// of a host.
bool take_record(ReplyReader& in, int type, int length, DnsReply& to) {
    if (type == dns_type_a || type == dns_type_aaaa) {
        if (length != (type == dns_type_a ? 4 : 16)) return false;
        to.addresses.push_back(address_of(type, in.start + in.at));
        return true;
    }
    if (type == dns_type_ptr) {
        std::string name = to_lower(in.name());
        if (!in.good || !is_host_name(name)) return false;
        if (to.pointer.empty()) to.pointer = std::move(name);
        return true;
    }
    Resolution::Service service{};
    service.priority = in.number16();
    service.weight = in.number16();
    service.port = in.number16();
    service.target = to_lower(in.name());
    if (!in.good) return false;
    if (service.target.empty()) return true;   // RFC 2782: "." means the service is not there
    if (!is_host_name(service.target)) return false;
    to.services.push_back(std::move(service));
    return true;
}

bool take_answers(ReplyReader& in, int type, int count, DnsReply& to) {
    uint32_t least_ttl = UINT32_MAX;
    for (int i = 0; i < count; ++i) {
        in.name();
        int found = in.number16(), family = in.number16();
        uint32_t ttl = in.number32();
        int length = in.number16();
        if (!in.has(length)) return false;
        int next = in.at + length;
        if (family == class_in && found == type && !take_record(in, type, length, to)) return false;
        if (found == type || found == type_cname) least_ttl = std::min(least_ttl, ttl);
        in.at = next;
    }
    // RFC 2181 8: a TTL with its highest bit set counts as zero.
    to.ttl_s = least_ttl == UINT32_MAX || least_ttl >> 31 ? 0 : least_ttl;
    return true;
}

}  // namespace

DnsReply parse_dns_reply(const uint8_t* bytes, int size, int type) {
    DnsReply reply;
    ReplyReader in{bytes, size};
    in.number16();
    int flags = in.number16();
    int questions = in.number16(), answers = in.number16();
    in.at = header_bytes;
    for (int i = 0; i < questions && in.good; ++i) {
        in.name();
        in.number32();
    }
    if (!in.good || !take_answers(in, type, answers, reply)) return {};
    int code = flags & 15;
    if (code > 5) return {};
    reply.status = ResolveStatus(code);
    bool empty = reply.addresses.empty() && reply.services.empty() && reply.pointer.empty();
    if (code == 0 && empty) reply.status = ResolveStatus::host_not_found;
    return reply;
}

bool is_host_name(Slice name) {
    if (name.ends_with('.')) name.remove_suffix(1);
    if (name.empty() || name.size() > name_bytes_max) return false;
    size_t label = 0;
    for (char c : name) {
        if (c == '.') {
            if (!label) return false;
            label = 0;
            continue;
        }
        if (!is_alpha(c) && !is_digit(c) && c != '-' && c != '_') return false;
        if (++label > label_bytes_max) return false;
    }
    return label > 0;
}

std::string pointer_name(const Address& address) {
    std::string name;
    if (address.family() == AF_INET) {
        uint8_t bytes[4];
        std::memcpy(bytes, &address.v4.sin_addr, 4);
        return format("%u.%u.%u.%u.in-addr.arpa", bytes[3], bytes[2], bytes[1], bytes[0]);
    }
    if (address.family() != AF_INET6) return name;
    for (int i = 15; i >= 0; --i) {
        unsigned byte = address.v6.sin6_addr.s6_addr[i];
        name += format("%x.%x.", byte & 15, byte >> 4);
    }
    return name + "ip6.arpa";
}

const std::vector<Address>* HostsFile::find(const std::string& name) {
    if (path_.empty()) return nullptr;
    refresh();
    auto found = names_.find(name);
    return found == names_.end() ? nullptr : &found->second;
}

void HostsFile::refresh() {
    int64_t now = Clock::monotonic_ms();
    if (looked_ms_ >= 0 && now - looked_ms_ < 1000) return;
    looked_ms_ = now;
    struct stat status;
    if (::stat(path_.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
        names_.clear();
        bytes_ = -1;
        return;
    }
#ifdef __APPLE__
    const timespec& changed = status.st_mtimespec;
#else
    const timespec& changed = status.st_mtim;
#endif
    int64_t changed_ns = int64_t(changed.tv_sec) * 1000000000 + changed.tv_nsec;
    if (changed_ns == changed_ns_ && status.st_size == bytes_) return;
    changed_ns_ = changed_ns;
    bytes_ = status.st_size;
    names_.clear();
    FILE* file = std::fopen(path_.c_str(), "re");
    if (!file) return;
    std::string text(std::min<size_t>(size_t(bytes_), file_bytes_max), '\0');
    text.resize(std::fread(text.data(), 1, text.size(), file));
    std::fclose(file);
    for (Slice rest = text; !rest.empty();) {
        size_t end = std::min(rest.find('\n'), rest.size());
        read_line(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
}

void HostsFile::read_line(Slice line) {
    constexpr Slice blanks = " \t\r\v\f";
    line = line.substr(0, line.find('#'));
    Address address;
    bool first = true;
    while (true) {
        size_t begin = line.find_first_not_of(blanks);
        if (begin == Slice::npos) return;
        line.remove_prefix(begin);
        Slice word = line.substr(0, line.find_first_of(blanks));
        line.remove_prefix(word.size());
        if (first && !Address::parse_ip(word, address)) return;
        if (!first) names_[to_lower(word)].push_back(address);
        first = false;
    }
}

}  // namespace core
