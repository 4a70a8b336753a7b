// The program: reads the command line, then tests a configuration, signals a running server, or
// becomes one.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "conf/environment.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/process.h"
#include "core/socket.h"
#include "core/text.h"
#include "core/tls_idle.h"
#include "server/command_paths.h"
#include "server/config.h"
#include "server/config_stamp.h"
#include "server/control/client.h"
#include "server/features.h"
#include "server/main_conf.h"
#include "server/master.h"
#include "server/process_setup.h"
#include "server/status.h"
#include "server/worker.h"
#include "server/worker_control.h"

namespace {

using server::Configuration;
using server::LoadOptions;
using server::MainConf;

struct Command {
    bool help = false, version = false, version_and_build = false;
    bool test = false, dump = false, quiet = false;
    std::string signal;
    std::string prefix;
    std::string conf;
    std::string error_log;
    std::vector<std::string> globals;
};

void say(const std::string& text) { std::fprintf(stderr, "nginx: %s\n", text.c_str()); }

void declare(CLI::App& app, Command& command) {
    app.set_help_flag();
    app.add_flag("-h,-?", command.help, "this help");
    app.add_flag("-v", command.version, "show version and exit");
    app.add_flag("-V", command.version_and_build, "show version and build options, then exit");
    app.add_flag("-t", command.test, "test configuration and exit");
    app.add_flag("-T", command.dump, "test configuration, print it and exit");
    app.add_flag("-q", command.quiet, "suppress non-error messages during configuration testing");
    app.add_option("-s", command.signal,
                   "send signal to the master process: stop, quit, reopen, reload");
    app.add_option("-p", command.prefix, "set prefix path (default: " RESTY_PREFIX ")");
    app.add_option("-e", command.error_log, "set error log file (default: logs/error.log)");
    app.add_option("-c", command.conf, "set configuration file (default: " RESTY_CONF ")");
    app.add_option("-g", command.globals, "set global directives out of configuration file")
        ->allow_extra_args(false);
}

LoadOptions load_options(const Command& command) {
    LoadOptions options;
    server::CommandPaths paths = server::find_paths(command.prefix, command.conf);
    options.prefix = paths.prefix;
    options.path = paths.conf;
    options.error_log = command.error_log;
    options.globals = command.globals;
    options.test_only = command.test;
    return options;
}

// Until a configuration says otherwise: -e, or logs/error.log where that can be written.
bool open_first_log(const Command& command, const LoadOptions& options) {
    static core::Log& log = *new core::Log;
    std::string target = command.error_log.empty() ? "logs/error.log" : command.error_log;
    core::LogSinkError error;
    core::set_log_echo("nginx");
    auto sink = core::open_log_sink(target, options.prefix, error);
    if (!sink) {
        std::fprintf(stderr, "nginx: [alert] could not open error log file: %s (%d: %s)\n",
                     error.what.c_str(), error.system_error, core::error_name(error.system_error));
        return command.error_log.empty();
    }
    log.add(std::move(sink), core::Level::notice);
    core::process_log().log = &log;
    return true;
}

int fail(const std::string& why) {
    LOG(core::process_log(), emerg, 0, "%s", why.c_str());
    return 1;
}

void dump(const conf::Tree& tree) {
    for (size_t i = 0; i < tree.files.size(); ++i) {
        std::printf("# configuration file %s:\n", tree.files[i]->c_str());
        std::fwrite(tree.texts[i]->data(), 1, tree.texts[i]->size(), stdout);
        std::printf("\n");
    }
    std::fflush(stdout);
}

int test_failed(const LoadOptions& options, const std::string& why) {
    LOG(core::process_log(), emerg, 0, "%s", why.c_str());
    say("configuration file " + options.path + " test failed");
    return 1;
}

// Its folder must be there and be writable; a server that runs keeps its number in it.
core::Result<void> test_pid_file(const std::string& path) {
    core::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (fd.valid()) return {};
    return core::Error{core::format("open() \"%s\" failed (%d: %s)", path.c_str(), errno,
                                    core::error_name(errno))};
}

int test(const Command& command, const LoadOptions& options) {
    auto loaded = Configuration::load(options);
    if (!loaded) return test_failed(options, loaded.error().what);
    auto& conf = (*loaded)->main<MainConf>(server::main_module);
    if (!command.quiet) say("the configuration file " + options.path + " syntax is ok");
    auto usable = test_pid_file(conf.pid.value);
    if (usable) usable = server::ListenSockets::test(**loaded);
    if (!usable) return test_failed(options, usable.error().what);
    if (!command.quiet) say("configuration file " + options.path + " test is successful");
    if (command.dump) dump((*loaded)->tree());
    return 0;
}

int signal_number(const std::string& name) {
    if (name == "stop") return SIGTERM;
    if (name == "quit") return SIGQUIT;
    if (name == "reopen") return SIGUSR1;
    if (name == "reload") return SIGHUP;
    return 0;
}

int send_signal(const Command& command, LoadOptions options) {
    options.test_only = true;
    server::set_process_type(server::ProcessType::signaller);
    auto loaded = Configuration::load(options);
    if (!loaded) return fail(loaded.error().what);
    LOG(core::process_log(), notice, 0, "signal process started");
    const std::string& path = (*loaded)->main<MainConf>(server::main_module).pid.value;
    auto pid = core::read_pid_file(path);
    if (!pid) {
        LOG(core::process_log(), error, 0, "%s", pid.error().what.c_str());
        return 1;
    }
    int number = signal_number(command.signal);
    if (::kill(*pid, number) == 0) return 0;
    LOG(core::process_log(), alert, errno, "kill(%d, %d) failed", int(*pid), number);
    return 1;
}

// Everything that can fail with a message to whoever typed the command, before going into the
// background.
core::Result<void> prepare(server::ServerProcess& process) {
    auto shared = server::open_status();
    if (!shared) return shared;
    if (const char* list = std::getenv("NGINX")) {
        process.sockets.inherit(list);
        process.parent = ::getppid();
        ::unsetenv("NGINX");
    }
    int64_t began_ns = server::ConfigStamp::now_ns();
    auto loaded = Configuration::load(process.options);
    if (!loaded) return loaded.take_error();
    process.configuration = std::move(*loaded);
    process.stamp = server::ConfigStamp::of(*process.configuration, began_ns);
    core::process_log().log = &process.configuration->error_log;
    auto& conf = process.configuration->main<MainConf>(server::main_module);
    process.pid_path = conf.pid.value;
    process.single = !conf.master_process.value;
    if (process.single) server::set_process_type(server::ProcessType::single);
    server::hold_request_signals();
    auto opened = process.sockets.open(*process.configuration,
                                       process.single ? 1 : conf.worker_processes);
    if (!opened) return opened;
    process.sockets.commit();
    auto ready = process.control.open(*process.configuration, process.sockets.inherited());
    if (ready) ready = server::init_process(*process.configuration);
    if (ready) process.control.commit(*process.configuration);
    return ready;
}

int serve(const LoadOptions& options) {
    server::set_process_type(server::ProcessType::master);
    server::ServerProcess process;
    process.options = options;
    auto ready = prepare(process);
    if (!ready) return fail(ready.error().what);
    auto& conf = process.configuration->main<MainConf>(server::main_module);
    LOG(core::process_log(), notice, 0, "openresty/%s (resty-server/%s)",
        server::openresty_version, RESTY_VERSION);
    process.daemonized = process.sockets.inherited();
    // The first process of a container stays: its end would be the container's.
    if (conf.daemon.value && !process.sockets.inherited() && ::getpid() != 1) {
        auto done = core::daemonize();
        if (!done) return fail(done.error().what);
        process.daemonized = true;
    }
    auto written = core::write_pid_file(process.pid_path, ::getpid());
    if (!written) return fail(written.error().what);
    server::redirect_stderr(*process.configuration);
    core::set_log_echo(nullptr);
    server::set_master_pid(::getpid());
    server::note_configuration(server::ConfigurationEvent::started);
    if (process.single) server::run_single(process);
    return server::Master(process).run();
}

int run(const Command& command) {
    LoadOptions options = load_options(command);
    if (!command.signal.empty() && !signal_number(command.signal)) {
        say("invalid option: \"-s " + command.signal + "\"");
        return 1;
    }
    core::Clock::update();
    if (!open_first_log(command, options)) return 1;
    if (command.test) return test(command, options);
    if (!command.signal.empty()) return send_signal(command, options);
    return serve(options);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && std::strcmp(argv[1], "ctl") == 0) {
        return server::run_control_client(argc - 1, argv + 1);
    }
    core::TlsIdle::install();
    Command command;
    CLI::App app;
    declare(app, command);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        say(std::string("invalid option: ") + error.what());
        return 1;
    }
    command.test |= command.dump;
    if (command.help || command.version || command.version_and_build) {
        std::string text = server::version_line() + "\n";
        if (command.version_and_build) text += server::build_lines();
        if (command.help) text += "\n" + app.help();
        std::fputs(text.c_str(), stderr);
        return 0;
    }
    core::open_process_title(argc, argv);
    conf::Environment::remember();
    server::program_path();
    return run(command);
}
