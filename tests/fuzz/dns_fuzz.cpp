// Fuzzes the reading of DNS replies: no byte of a reply may end in a name that no host has.
#include <cstdlib>

#include "core/dns_reply.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    static constexpr int types[] = {core::dns_type_a, core::dns_type_aaaa, core::dns_type_ptr,
                                    core::dns_type_srv};
    core::DnsReply reply = core::parse_dns_reply(data + 1, int(size - 1), types[data[0] % 4]);
    if (!reply.pointer.empty() && !core::is_host_name(reply.pointer)) std::abort();
    for (auto& service : reply.services) {
        if (!core::is_host_name(service.target)) std::abort();
    }
    if (reply.status == core::ResolveStatus::ok && reply.addresses.empty() &&
        reply.services.empty() && reply.pointer.empty()) {
        std::abort();
    }
    return 0;
}
