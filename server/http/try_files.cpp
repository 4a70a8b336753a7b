// try_files: the first name that exists takes over as the URI; else the last argument decides.
// Runs in the precontent phase of locations that have it.
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/request.h"

namespace server {

namespace {

using core::Slice;

conf::Result<void> read_last(TryFiles& to, Slice text, const conf::Line& line) {
    if (text.starts_with('=')) {
        auto status = core::parse_number(text.substr(1), 999);
        if (!status) return core::Error{"invalid code \"" + std::string(text) + "\""};
        to.last_status = int(*status);
        return {};
    }
    to.last_named = text.starts_with('@');
    auto value = ComplexValue::compile(text, line);
    if (!value) return value.take_error();
    to.last = std::move(*value);
    return {};
}

// The candidate as a URI below the location's own name when an alias stands for that. (Only a name
// with variables may begin so itself, as in nginx.)
Slice uri_of(Request& request, Slice name, bool constant) {
    const CoreConf& conf = request.core();
    if (!conf.is_alias || conf.alias_replaces == Slice::npos) return name;
    if (!constant && name.starts_with(conf.location_name)) return name;
    core::Appender uri(request.arena);
    uri.append(Slice(conf.location_name));
    uri.append(name);
    return uri.take();
}

bool exists(Request& request, Slice path, bool directory) {
    struct stat status;
    if (stat(path.data(), &status) != 0) {
        int error = errno;
        bool usual = error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG ||
                     error == EACCES || error == ELOOP;
        if (!usual) {
            LOG(request.log, crit, error, "stat() \"%s\" failed", path.data());
        }
        return false;
    }
    return S_ISDIR(status.st_mode) == directory;
}

Verdict last_resort(Request& request, const TryFiles& files) {
    if (files.last_status) return Verdict::reject(files.last_status);
    Slice target = files.last.evaluate(request);
    if (target.starts_with('@')) return request.named_location(target);
    size_t question = target.find('?');
    Slice args = question == Slice::npos ? Slice{} : target.substr(question + 1);
    return request.internal_redirect(target.substr(0, question), args);
}

}  // namespace

conf::Result<void> set_try_files(CoreConf& conf, const conf::Line& line) {
    if (conf.try_files) return core::Error{"is duplicate"};
    auto files = std::make_shared<TryFiles>();
    for (size_t i = 0; i + 1 < line.count(); ++i) {
        Slice text = line.arg(i);
        TryFiles::Entry entry;
        entry.directory = text.size() > 1 && text.ends_with('/');
        if (entry.directory) text.remove_suffix(1);
        auto name = ComplexValue::compile(text, line);
        if (!name) return name.take_error();
        entry.name = std::move(*name);
        files->entries.push_back(std::move(entry));
    }
    auto last = read_last(*files, line.arg(line.count() - 1), line);
    if (!last) return last;
    conf.try_files = std::move(files);
    return {};
}

Verdict try_files(Request& request) {
    const TryFiles& files = *request.core().try_files;
    for (const TryFiles::Entry& entry : files.entries) {
        Slice uri = uri_of(request, entry.name.evaluate(request), entry.name.is_constant());
        // An alias in a regex location is a whole file name; a candidate goes behind it.
        bool appends = request.core().is_alias && request.core().alias_replaces == Slice::npos;
        bool before = std::exchange(request.uri_behind_alias, appends);
        Slice path = file_path(request, uri);
        request.uri_behind_alias = before;
        if (!path.data() || !exists(request, path, entry.directory)) continue;
        if (appends && entry.directory) return Verdict::decline();
        request.uri_behind_alias = appends;
        request.set_uri(uri);
        request.plain_uri = false;
        return Verdict::decline();
    }
    return last_resort(request, files);
}

}  // namespace server
