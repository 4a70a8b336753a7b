// Networks and forwarded addresses.
#include "server/http/cidr.h"

#include <cstring>

#include "core/text.h"

namespace server {

using core::Address;
using core::Slice;

AddressBytes AddressBytes::of(const Address& address) {
    AddressBytes to;
    if (address.family() == AF_INET) {
        to.size = 4;
        std::memcpy(to.bytes, &address.v4.sin_addr, 4);
    } else if (address.family() == AF_INET6) {
        const uint8_t* bytes = address.v6.sin6_addr.s6_addr;
        bool mapped = IN6_IS_ADDR_V4MAPPED(&address.v6.sin6_addr);
        to.size = mapped ? 4 : 16;
        std::memcpy(to.bytes, bytes + (mapped ? 12 : 0), size_t(to.size));
    }
    return to;
}

bool Cidr::contains(const AddressBytes& address) const {
    if (address.size != size) return false;
    int whole = bits / 8, rest = bits % 8;
    if (std::memcmp(bytes, address.bytes, size_t(whole)) != 0) return false;
    if (rest == 0) return true;
    uint8_t mask = uint8_t(0xff << (8 - rest));
    return (bytes[whole] & mask) == (address.bytes[whole] & mask);
}

namespace {

// "255.255.0.0" as a mask, too.
int bits_of_mask(Slice text, int size) {
    if (auto number = core::parse_number(text, uint64_t(size) * 8)) return int(*number);
    Address mask;
    if (size != 4 || !Address::parse_ip(text, mask) || mask.family() != AF_INET) return -1;
    uint32_t bits = ntohl(mask.v4.sin_addr.s_addr);
    int count = __builtin_popcount(bits);
    bool contiguous = count == 0 || bits == uint32_t(0xffffffffu << (32 - count));
    return contiguous ? count : -1;
}

bool drop_low_bits(uint8_t* bytes, int size, int bits) {
    bool dropped = false;
    for (int i = 0; i < size; ++i) {
        int kept = bits - i * 8;
        uint8_t mask = kept >= 8 ? 0xff : kept <= 0 ? 0 : uint8_t(0xff << (8 - kept));
        dropped = dropped || (bytes[i] & ~mask);
        bytes[i] &= mask;
    }
    return dropped;
}

}  // namespace

bool Cidr::parse(Slice text, Cidr& to) {
    to = {};
    if (text == "unix:") return true;
    size_t slash = text.find('/');
    Address address;
    if (!Address::parse_ip(text.substr(0, slash), address)) return false;
    to.size = address.family() == AF_INET ? 4 : 16;
    std::memcpy(to.bytes,
                to.size == 4 ? static_cast<const void*>(&address.v4.sin_addr)
                             : static_cast<const void*>(&address.v6.sin6_addr),
                size_t(to.size));
    to.bits = slash == Slice::npos ? to.size * 8 : bits_of_mask(text.substr(slash + 1), to.size);
    if (to.bits < 0) return false;
    to.low_bits_dropped = drop_low_bits(to.bytes, to.size, to.bits);
    return true;
}

bool any_contains(const std::vector<Cidr>& networks, const Address& address) {
    AddressBytes bytes = AddressBytes::of(address);
    for (const Cidr& network : networks) {
        bool both_local = network.size == 0 && address.family() == AF_UNIX;
        if (both_local || (network.size != 0 && network.contains(bytes))) return true;
    }
    return false;
}

bool parse_address(Slice text, Address& to) {
    if (Address::parse_ip(text, to)) return true;
    size_t colon = text.rfind(':');
    if (colon == Slice::npos || colon == 0) return false;
    auto port = core::parse_number(text.substr(colon + 1), 65535);
    if (!port || *port == 0 || !Address::parse_ip(text.substr(0, colon), to)) return false;
    // A bare IPv6 address has colons of its own: only "[…]:80" names a port.
    if (to.family() == AF_INET6 && text[0] != '[') return false;
    to.set_port(int(*port));
    return true;
}

bool forwarded_address(Address& address, const Slice* values, size_t count,
                       const std::vector<Cidr>& trusted, bool recursive) {
    bool replaced = false;
    while (count-- > 0) {
        Slice rest = values[count];
        while (true) {
            size_t last = rest.find_last_not_of(" ,");
            if (last == Slice::npos) break;
            rest = rest.substr(0, last + 1);
            size_t before = rest.find_last_of(" ,");
            size_t from = before == Slice::npos ? 0 : before + 1;
            Address next;
            if (!any_contains(trusted, address)) return replaced;
            if (!parse_address(rest.substr(from), next)) return replaced;
            address = next;
            replaced = true;
            if (!recursive) return true;
            rest = rest.substr(0, from);
        }
    }
    return replaced;
}

}  // namespace server
