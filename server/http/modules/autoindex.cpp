// The autoindex module: the listing of a folder, as HTML, JSON, JSONP or XML.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "conf/values.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/open_files.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

enum class Format : uint8_t { html, json, jsonp, xml };
constexpr conf::Choice<Format> format_words[] = {
    {"html", Format::html}, {"json", Format::json}, {"jsonp", Format::jsonp}, {"xml", Format::xml},
};
constexpr const auto& choices(Format) { return format_words; }

struct Conf {
    conf::Setting<bool> enabled{false};
    conf::Setting<Format> format{Format::html};
    conf::Setting<bool> local_time{false};
    conf::Setting<bool> exact_size{true};
};

const Module& module();

struct Entry {
    core::Slice name;
    bool is_directory = false, is_file = false;
    int64_t mtime = 0;
    int64_t size = 0;
};

// ---- reading the folder ----

// passed, or what to answer.
Verdict read_folder(Request& request, DIR* folder, std::vector<Entry>& entries) {
    while (const dirent* found = ::readdir(folder)) {
        if (found->d_name[0] == '.') continue;
        struct stat is;
        int at = ::dirfd(folder);
        if (::fstatat(at, found->d_name, &is, 0) != 0) {
            bool dangling = errno == ENOENT || errno == ELOOP;
            if (!dangling) {
                LOG(request.log, crit, errno, "stat() \"%s\" failed", found->d_name);
                if (errno == EACCES) continue;
                return Verdict::reject(500);
            }
            // A link to nowhere is listed as itself; a file that is gone by now is not.
            if (::fstatat(at, found->d_name, &is, AT_SYMLINK_NOFOLLOW) != 0) continue;
        }
        entries.push_back({request.arena.copy(found->d_name), S_ISDIR(is.st_mode),
                           S_ISREG(is.st_mode), is.st_mtime, is.st_size});
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        if (a.is_directory != b.is_directory) return a.is_directory;
        return a.name < b.name;
    });
    return Verdict::pass();
}

// ---- printing ----

constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr size_t name_width = 50;

template <class... Args>
void print(core::Appender& to, const char* pattern, Args... args) {
    char room[128];
    int size = std::snprintf(room, sizeof room, pattern, args...);
    to.append(core::Slice(room, std::min(size_t(size), sizeof room - 1)));
}

// The bytes of the first `count` characters; sets `total` to the number of characters.
size_t characters(core::Slice text, bool utf8, size_t count, size_t& total) {
    total = 0;
    size_t bytes = text.size();
    for (size_t i = 0; i < text.size(); ++i) {
        bool begins = !utf8 || (uint8_t(text[i]) & 0xc0) != 0x80;
        if (begins && total++ == count) bytes = i;
    }
    return bytes;
}

void print_rounded(core::Appender& to, int64_t size) {
    auto rounded = [&](int64_t unit) { return (long long)((size + unit / 2) / unit); };
    constexpr int64_t kilo = 1024, mega = kilo * kilo, giga = mega * kilo;
    if (size >= giga) {
        print(to, "%6lldG", rounded(giga));
    } else if (size >= mega) {
        print(to, "%6lldM", rounded(mega));
    } else if (size > 9999) {
        print(to, "%6lldK", rounded(kilo));
    } else {
        print(to, " %6lld", (long long)size);
    }
}

void print_html_row(Request& request, const Conf& conf, const Entry& entry, bool utf8,
                    core::Appender& to) {
    to.append("<a href=\"");
    to.append(escape_uri(request.arena, entry.name, UriEscape::component));
    if (entry.is_directory) to.append('/');
    to.append("\">");
    size_t width;
    size_t cut = characters(entry.name, utf8, name_width - 3, width);
    if (width > name_width) {
        to.append(escape_html(request.arena, entry.name.substr(0, cut)));
        to.append("..&gt;</a>");
    } else {
        to.append(escape_html(request.arena, entry.name));
        if (entry.is_directory && width < name_width) {
            to.append('/');
            ++width;
        }
        to.append("</a>");
        for (; width < name_width; ++width) to.append(' ');
    }
    tm when;
    time_t mtime = time_t(entry.mtime);
    conf.local_time ? localtime_r(&mtime, &when) : gmtime_r(&mtime, &when);
    print(to, " %02d-%s-%d %02d:%02d ", when.tm_mday, months[when.tm_mon], when.tm_year + 1900,
          when.tm_hour, when.tm_min);
    if (entry.is_directory) {
        print(to, conf.exact_size ? "%19s" : "%7s", "-");
    } else if (conf.exact_size) {
        print(to, "%19lld", (long long)entry.size);
    } else {
        print_rounded(to, entry.size);
    }
    to.append("\r\n");
}

void print_html(Request& request, const std::vector<Entry>& entries, core::Appender& to) {
    const Conf& conf = request.conf<Conf>(module());
    bool utf8 = core::iequals(request.response.charset, "utf-8");
    core::Slice title = escape_html(request.arena, request.uri);
    to.append("<html>\r\n<head><title>Index of ");
    to.append(title);
    to.append("</title></head>\r\n<body>\r\n<h1>Index of ");
    to.append(title);
    to.append("</h1><hr><pre><a href=\"../\">../</a>\r\n");
    for (const Entry& entry : entries) print_html_row(request, conf, entry, utf8, to);
    to.append("</pre><hr></body>\r\n</html>\r\n");
}

core::Slice kind_of(const Entry& entry) {
    return entry.is_directory ? "directory" : entry.is_file ? "file" : "other";
}

void print_json(Request& request, const std::vector<Entry>& entries, core::Slice callback,
                core::Appender& to) {
    if (!callback.empty()) {
        to.append("/* callback */\r\n");
        to.append(callback);
        to.append('(');
    }
    to.append('[');
    bool first = true;
    for (const Entry& entry : entries) {
        if (!first) to.append(',');
        first = false;
        to.append("\r\n{ \"name\":\"");
        to.append(escape_json(request.arena, entry.name));
        to.append("\", \"type\":\"");
        to.append(kind_of(entry));
        to.append("\", \"mtime\":\"");
        core::format_http_date(time_t(entry.mtime), to.reserve(29));
        to.advance(29);
        to.append('"');
        if (entry.is_file) {
            to.append(", \"size\":");
            to.append_number(entry.size);
        }
        to.append(" }");
    }
    to.append("\r\n]");
    if (!callback.empty()) to.append(");");
}

void print_xml(Request& request, const std::vector<Entry>& entries, core::Appender& to) {
    to.append("<?xml version=\"1.0\"?>\r\n<list>\r\n");
    for (const Entry& entry : entries) {
        tm when;
        time_t mtime = time_t(entry.mtime);
        gmtime_r(&mtime, &when);
        core::Slice kind = kind_of(entry);
        to.append('<');
        to.append(kind);
        print(to, " mtime=\"%04d-%02d-%02dT%02d:%02d:%02dZ\"", when.tm_year + 1900,
              when.tm_mon + 1, when.tm_mday, when.tm_hour, when.tm_min, when.tm_sec);
        if (entry.is_file) print(to, " size=\"%lld\"", (long long)entry.size);
        to.append('>');
        to.append(escape_html(request.arena, entry.name));
        to.append("</");
        to.append(kind);
        to.append(">\r\n");
    }
    to.append("</list>\r\n");
}

// ---- the handler ----

// The name in ?callback=; false when it could be more than a name.
bool find_callback(Request& request, core::Slice& callback) {
    callback = variable_by_name(request, "arg_callback").text;
    constexpr size_t bytes_max = 128;
    if (callback.size() > bytes_max) {
        LOG(request.log, info, 0, "client sent too long callback name: \"%.*s\"",
            int(callback.size()), callback.data());
        return false;
    }
    for (char c : callback) {
        if (core::is_alpha(c) || core::is_digit(c) || c == '_' || c == '.') continue;
        LOG(request.log, info, 0, "client sent invalid callback name: \"%.*s\"",
            int(callback.size()), callback.data());
        return false;
    }
    return true;
}

Verdict send_listing(Request& request, const std::vector<Entry>& entries, Format format,
                     core::Slice callback) {
    Response& response = request.response;
    response.status = 200;
    switch (format) {
    case Format::html: response.content_type = "text/html"; break;
    case Format::json: response.content_type = "application/json"; break;
    case Format::jsonp: response.content_type = "application/javascript"; break;
    case Format::xml:
        response.content_type = "text/xml";
        response.charset = "utf-8";
        break;
    }
    Verdict verdict = request.send_header();
    if (verdict.kind == Verdict::rejected) return verdict;
    core::Appender to(request.arena, 256 + entries.size() * 160);
    switch (format) {
    case Format::html: print_html(request, entries, to); break;
    case Format::json: case Format::jsonp: print_json(request, entries, callback, to); break;
    case Format::xml: print_xml(request, entries, to); break;
    }
    core::Chain body;
    body.add_from_request(to.take()).flags |= core::Buffer::last;
    verdict = request.send(std::move(body));
    return verdict.kind == Verdict::rejected ? verdict : Verdict::finish();
}

Verdict list(Request& request) {
    if (!request.uri.ends_with('/')) return Verdict::decline();
    if (request.method != Method::get && request.method != Method::head) return Verdict::decline();
    request.body.discard(request);
    core::Slice path = file_path(request, request.uri);
    if (!path.data()) return Verdict::reject(404);
    if (path.size() > 1 && path.ends_with('/')) {
        path = request.arena.copy_z(path.substr(0, path.size() - 1));
    }
    Format format = request.conf<Conf>(module()).format;
    core::Slice callback;
    if (format == Format::jsonp && !find_callback(request, callback)) return Verdict::reject(400);

    DIR* folder = ::opendir(path.data());
    if (!folder) {
        FileInfo info;
        info.error = errno;
        info.failed = "opendir()";
        return reject_unopened(request, info, path);
    }
    std::vector<Entry> entries;
    Verdict verdict = read_folder(request, folder, entries);
    ::closedir(folder);
    if (verdict.kind == Verdict::rejected) return verdict;
    return send_listing(request, entries, format, callback);
}

constexpr conf::Directive directives[] = {
    {"autoindex", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::enabled>},
    {"autoindex_format", conf::in_any_http, conf::takes(1), conf::field<&Conf::format>},
    {"autoindex_localtime", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::local_time>},
    {"autoindex_exact_size", conf::in_any_http, conf::takes_flag(),
     conf::field<&Conf::exact_size>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::content, rank::early + 20, list,
     [](const void* conf) { return static_cast<const Conf*>(conf)->enabled.value; }},
};

constinit const Module autoindex{
    .name = "autoindex",
    .conf = conf_of<Conf>,
    .directives = directives,
    .handlers = handlers,
};
const Module& module() { return autoindex; }
REGISTER_MODULE(autoindex);

}  // namespace

}  // namespace server
