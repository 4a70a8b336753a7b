// Parsing PROXY protocol headers: the text form of version 1, the binary one of version 2.
#include "server/http/proxy_header.h"

#include <arpa/inet.h>

#include <algorithm>

#include "core/socket.h"
#include "core/text.h"

namespace server {

namespace {

using core::Slice;
using Outcome = ProxyHeader::Outcome;

constexpr Slice signature_v2("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t head_bytes_v2 = 16;
constexpr size_t line_bytes_max_v1 = 107;

bool is_ip(Slice text, int family) {
    core::Address address;
    return core::Address::parse_ip(text, address) && address.family() == family &&
           !text.starts_with('[');
}

// "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"
Outcome parse_v1(Slice bytes, ProxyHeader& to, size_t& used) {
    size_t end = bytes.substr(0, line_bytes_max_v1).find("\r\n");
    if (end == Slice::npos) {
        return bytes.size() >= line_bytes_max_v1 ? Outcome::invalid : Outcome::needs_more;
    }
    used = end + 2;
    Slice rest = bytes.substr(6, end - 6);
    if (rest.starts_with("UNKNOWN")) return Outcome::complete;
    Slice words[5];
    for (Slice& word : words) {
        size_t space = rest.find(' ');
        word = rest.substr(0, space);
        rest = space == Slice::npos ? Slice{} : rest.substr(space + 1);
    }
    int family = words[0] == "TCP4" ? AF_INET : words[0] == "TCP6" ? AF_INET6 : AF_UNSPEC;
    auto source_port = core::parse_number(words[3], 65535);
    auto destination_port = core::parse_number(words[4], 65535);
    if (!rest.empty() || !is_ip(words[1], family) || !is_ip(words[2], family) || !source_port ||
        !destination_port) {
        return Outcome::invalid;
    }
    to.source = words[1];
    to.destination = words[2];
    to.source_port = int(*source_port);
    to.destination_port = int(*destination_port);
    return Outcome::complete;
}

int number_16(Slice bytes, size_t at) {
    return uint8_t(bytes[at]) << 8 | uint8_t(bytes[at + 1]);
}

std::string address_text(int family, const char* bytes) {
    char room[INET6_ADDRSTRLEN];
    return inet_ntop(family, bytes, room, sizeof(room)) ? room : "";
}

bool parse_tlvs(Slice bytes, ProxyHeader& to) {
    while (!bytes.empty()) {
        if (bytes.size() < 3) return false;
        size_t size = size_t(number_16(bytes, 1));
        if (bytes.size() < 3 + size) return false;
        to.tlvs.emplace_back(uint8_t(bytes[0]), std::string(bytes.substr(3, size)));
        bytes.remove_prefix(3 + size);
    }
    return true;
}

Outcome parse_v2(Slice bytes, ProxyHeader& to, size_t& used) {
    if (bytes.size() < head_bytes_v2) return Outcome::needs_more;
    uint8_t version_command = uint8_t(bytes[12]), kind = uint8_t(bytes[13]);
    size_t size = size_t(number_16(bytes, 14));
    used = head_bytes_v2 + size;
    if (version_command >> 4 != 2 || used > ProxyHeader::bytes_max) return Outcome::invalid;
    if (bytes.size() < used) return Outcome::needs_more;
    bool local = (version_command & 15) == 0;
    if (local) return Outcome::complete;
    if ((version_command & 15) != 1) return Outcome::invalid;
    Slice body = bytes.substr(head_bytes_v2, size);
    int family = kind >> 4 == 1 ? AF_INET : kind >> 4 == 2 ? AF_INET6 : AF_UNSPEC;
    // Transports and families that it cannot be used with are skipped, as the specification asks.
    if (family == AF_UNSPEC || (kind & 15) != 1) return Outcome::complete;
    size_t address_bytes = family == AF_INET ? 4 : 16;
    size_t block = 2 * address_bytes + 4;
    if (body.size() < block) return Outcome::invalid;
    to.source = address_text(family, body.data());
    to.destination = address_text(family, body.data() + address_bytes);
    to.source_port = number_16(body, 2 * address_bytes);
    to.destination_port = number_16(body, 2 * address_bytes + 2);
    return parse_tlvs(body.substr(block), to) ? Outcome::complete : Outcome::invalid;
}

}  // namespace

Outcome ProxyHeader::parse(Slice bytes, ProxyHeader& to, size_t& used) {
    constexpr Slice signature_v1 = "PROXY ";
    size_t common = std::min(bytes.size(), signature_v1.size());
    if (bytes.substr(0, common) == signature_v1.substr(0, common)) {
        return common < signature_v1.size() ? Outcome::needs_more : parse_v1(bytes, to, used);
    }
    common = std::min(bytes.size(), signature_v2.size());
    if (bytes.substr(0, common) != signature_v2.substr(0, common)) return Outcome::invalid;
    return common < signature_v2.size() ? Outcome::needs_more : parse_v2(bytes, to, used);
}

core::Slice ProxyHeader::tlv(uint8_t type) const {
    for (const auto& [kind, value] : tlvs) {
        if (kind == type) return value;
    }
    return {};
}

}  // namespace server
