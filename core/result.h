// Result<T>: a value or an Error that says what went wrong, whose fault it was and whether trying
// again may help. Used wherever a failure is an expected outcome; there are no exceptions of ours.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace core {

enum class Fault : uint8_t { ours, client, upstream };

struct Error {
    std::string what;
    Fault fault = Fault::ours;
    bool retryable = false;
};

template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    explicit operator bool() const { return state_.index() == 0; }
    T& operator*() { return *std::get_if<0>(&state_); }
    const T& operator*() const { return *std::get_if<0>(&state_); }
    T* operator->() { return std::get_if<0>(&state_); }
    const T* operator->() const { return std::get_if<0>(&state_); }
    const Error& error() const { return *std::get_if<1>(&state_); }
    Error&& take_error() { return std::move(*std::get_if<1>(&state_)); }

  private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    explicit operator bool() const { return !error_; }
    const Error& error() const { return *error_; }
    Error&& take_error() { return std::move(*error_); }

  private:
    std::optional<Error> error_;
};

}  // namespace core
