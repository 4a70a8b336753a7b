// auth_basic: user and password of the Authorization field against a password file, which is read
// for each request (so changes count at once). Lines are user:password[:anything].
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "server/http/core_conf.h"
#include "server/http/core_variables.h"
#include "server/http/password.h"
#include "server/http/request.h"

namespace server {

namespace {

using core::Slice;

constexpr int64_t file_bytes_max = 16 << 20;

struct AuthConf {
    conf::Setting<ComplexValue> realm;
    conf::Setting<ComplexValue> user_file;
};

extern const Module module_auth_basic;

Verdict challenge(Request& request, Slice realm) {
    core::Appender value(request.arena);
    value.append("Basic realm=\"");
    value.append(realm);
    value.append('"');
    request.response.headers.set(HeaderId::www_authenticate, value.take());
    return Verdict::reject(401);
}

// The whole file; null data after logging, with the status to answer.
Slice read_file(Request& request, Slice path, int& status) {
    core::Fd fd(open(path.data(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid()) {
        int error = errno;
        status = error == ENOENT ? 403 : 500;
        core::log_write(request.log, error == ENOENT ? core::Level::error : core::Level::crit,
                        error, "open() \"%s\" failed", path.data());
        return {};
    }
    status = 500;
    struct stat about;
    if (fstat(fd.get(), &about) != 0 || !S_ISREG(about.st_mode) || about.st_size > file_bytes_max) {
        LOG(request.log, crit, 0, "\"%s\" is not a password file", path.data());
        return {};
    }
    char* room = request.arena.bytes(size_t(about.st_size) + 1);
    size_t size = 0;
    while (size < size_t(about.st_size)) {
        ssize_t got = ::read(fd.get(), room + size, size_t(about.st_size) - size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            LOG(request.log, crit, errno, "read() \"%s\" failed", path.data());
            return {};
        }
        if (got == 0) break;
        size += size_t(got);
    }
    return {room, size};
}

// The password of `user`; null data when the file does not know them.
Slice find_user(Slice file, Slice user) {
    while (!file.empty()) {
        size_t end = file.find('\n');
        Slice line = file.substr(0, end);
        file = end == Slice::npos ? Slice{} : file.substr(end + 1);
        if (line.starts_with('#') || line.size() <= user.size() || !line.starts_with(user) ||
            line[user.size()] != ':') {
            continue;
        }
        Slice password = line.substr(user.size() + 1);
        return password.substr(0, password.find_first_of(":\r"));
    }
    return {};
}

Slice file_name(Request& request, const ComplexValue& value) {
    Slice written = value.evaluate(request);
    if (written.starts_with('/')) return request.arena.copy_z(written);
    core::Appender path(request.arena);
    path.append(Slice(Configuration::current().binder().conf_prefix));
    path.append(written);
    path.append('\0');
    Slice text = path.take();
    return text.substr(0, text.size() - 1);
}

Verdict authenticate(Request& request) {
    const AuthConf& conf = request.conf<AuthConf>(module_auth_basic);
    Slice realm = conf.realm->evaluate(request);
    if (realm == "off") return Verdict::decline();
    Credentials given;
    if (!basic_credentials(request, given) || given.user.empty()) {
        LOG(request.log, info, 0, "no user/password was provided for basic authentication");
        return challenge(request, realm);
    }
    Slice path = file_name(request, *conf.user_file);
    int status = 0;
    Slice file = read_file(request, path, status);
    if (!file.data()) return Verdict::reject(status);
    Slice stored = find_user(file, given.user);
    if (!stored.data()) {
        LOG(request.log, error, 0, "user \"%.*s\" was not found in \"%s\"", int(given.user.size()),
            given.user.data(), path.data());
        return challenge(request, realm);
    }
    switch (check_password(given.password, stored)) {
    case PasswordCheck::right: return Verdict::pass();
    case PasswordCheck::wrong: break;
    case PasswordCheck::unusable:
        LOG(request.log, crit, 0, "crypt_r() failed for user \"%.*s\" in \"%s\"",
            int(given.user.size()), given.user.data(), path.data());
        return Verdict::reject(500);
    }
    LOG(request.log, error, 0, "user \"%.*s\": password mismatch", int(given.user.size()),
        given.user.data());
    return challenge(request, realm);
}

bool is_on(const void* conf) {
    const auto& auth = *static_cast<const AuthConf*>(conf);
    bool off = auth.realm->is_constant() && auth.realm->constant() == "off";
    return auth.realm.is_set && auth.user_file.is_set && !off;
}

constexpr uint32_t contexts = conf::in_any_http | conf::in_limit_except;

constexpr conf::Directive directives[] = {
    {"auth_basic", contexts, conf::takes(1), conf::field<&AuthConf::realm>},
    {"auth_basic_user_file", contexts, conf::takes(1), conf::field<&AuthConf::user_file>},
};

constexpr PhaseHandler handlers[] = {{Phase::access, rank::normal, authenticate, is_on}};

const Module module_auth_basic{
    .name = "http_auth_basic",
    .conf = conf_of<AuthConf>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(module_auth_basic);

}  // namespace

}  // namespace server
