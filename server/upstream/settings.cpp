// Reading the settings that are more than a value.
#include "server/upstream/settings.h"

#include <algorithm>

#include "core/socket.h"

namespace server {

conf::Result<void> parse_setting(BindAddress& to, const conf::Line& line) {
    if (line.count() == 1 && line.arg(0) == "off") {
        to.off = true;
        return {};
    }
    auto text = ComplexValue::compile(line.arg(0), line);
    if (!text) return text.take_error();
    core::Address address;
    if (text->is_constant()) {
        auto named = core::parse_host_port(line.arg(0));
        if (!named || !core::Address::parse_ip(named->host, address)) {
            return core::Error{"invalid address \"" + std::string(line.arg(0)) + "\""};
        }
    }
    to.address = std::move(*text);
    if (line.count() == 2) {
        if (line.arg(1) != "transparent") return conf::invalid_parameter(line.arg(1));
        to.transparent = true;
    }
    return {};
}

conf::Result<void> parse_setting(StorePath& to, const conf::Line& line) {
    to.on = line.arg(0) != "off";
    if (line.arg(0) == "on" || line.arg(0) == "off") return {};
    auto path = ComplexValue::compile(line.arg(0), line);
    if (!path) return path.take_error();
    to.path = std::move(*path);
    return {};
}

conf::Result<void> parse_setting(AccessBits& to, const conf::Line& line) {
    to.mode = 0600;
    for (size_t i = 0; i < line.count(); ++i) {
        core::Slice text = line.arg(i);
        size_t colon = text.find(':');
        core::Slice who = text.substr(0, colon);
        core::Slice what = colon == core::Slice::npos ? core::Slice{} : text.substr(colon + 1);
        unsigned bits = what == "rw" ? 6 : what == "r" ? 4 : 0;
        int shift = who == "user" ? 6 : who == "group" ? 3 : who == "all" ? 0 : -1;
        if (!bits || shift < 0) {
            return core::Error{"invalid value \"" + std::string(text) + "\""};
        }
        to.mode |= bits << shift;
    }
    return {};
}

conf::Result<void> UpstreamSettings::complete(const char* prefix) {
    std::string name = prefix;
    int64_t larger = std::max(buffer_size->count, buffers->bytes);
    if (buffers->count < 2) return core::Error{"there must be at least 2 \"" + name + "_buffers\""};
    busy_buffers_size.set_default(Bytes{2 * larger});
    temp_file_write_size.set_default(Bytes{2 * larger});
    if (busy_buffers_size->count < larger) {
        return core::Error{"\"" + name + "_busy_buffers_size\" must be equal to or greater than "
                           "the maximum of the value of \"" + name + "_buffer_size\" and one of "
                           "the \"" + name + "_buffers\""};
    }
    if (busy_buffers_size->count > (buffers->count - 1) * buffers->bytes) {
        return core::Error{"\"" + name + "_busy_buffers_size\" must be less than the size of all "
                           "\"" + name + "_buffers\" minus one buffer"};
    }
    if (temp_file_write_size->count < larger) {
        return core::Error{"\"" + name + "_temp_file_write_size\" must be equal to or greater than "
                           "the maximum of the value of \"" + name + "_buffer_size\" and one of "
                           "the \"" + name + "_buffers\""};
    }
    if (max_temp_file_size->count != 0 && max_temp_file_size->count < larger) {
        return core::Error{"\"" + name + "_max_temp_file_size\" must be equal to zero to disable "
                           "temporary files usage or must be equal to or greater than the maximum "
                           "of the value of \"" + name + "_buffer_size\" and one of the \"" + name +
                           "_buffers\""};
    }
    if (next_upstream->has(NextUpstream::off)) {
        next_upstream.value = conf::Choices<NextUpstream>(uint32_t(NextUpstream::off));
    }
    return {};
}

}  // namespace server
