// The process's listening sockets. They outlive configurations: a reload keeps those whose address
// stays, a binary upgrade inherits them by the environment variable NGINX ("5;6;"), as nginx does.
// Used by main and the master.
#pragma once

#include <string>
#include <vector>

#include "core/result.h"
#include "core/socket.h"

namespace server {

class Configuration;
struct ListenAddress;

class ListenSockets {
  public:
    ~ListenSockets();

    // Takes over what a former binary passed on. Descriptors that are no sockets are logged.
    void inherit(const char* list);
    bool inherited() const { return inherited_; }

    // Fills in the fds of every listen address, with sockets held already or new ones. On failure
    // (each refused address has been logged) the sockets held before are untouched.
    core::Result<void> open(Configuration& configuration, int workers);
    // Only tries, for -t: an address in use is no fault of the configuration.
    static core::Result<void> test(const Configuration& configuration);
    // The configuration of the last open() is in force: what it does not use is closed.
    void commit();
    // It is not: what open() made is closed.
    void roll_back();

    // "5;6;", for a new binary.
    std::string list() const;
    std::vector<int> descriptors() const;
    // Stops listening, as far as this process goes.
    void close_all();
    // Removes the files of Unix sockets: nobody listens on them any more.
    void remove_files();

  private:
    struct Held {
        core::Address address;
        int type;
        core::Fd fd;
        bool used = false;         // by the configuration being opened
        bool fresh = false;        // made for it
    };
    bool open_address(ListenAddress& listen, size_t count, bool& in_use);
    Held* unused(const ListenAddress& listen);

    std::vector<Held> held_;
    bool inherited_ = false;
};

}  // namespace server
