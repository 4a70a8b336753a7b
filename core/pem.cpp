// Reading certificates and keys with OpenSSL; see core/pem.h.
#include "core/pem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>

namespace core {

namespace {

// OpenSSL asks for a password; the argument is a std::string, or null.
int give_password(char* to, int room, int, void* argument) {
    auto* password = static_cast<const std::string*>(argument);
    if (!password || int(password->size()) > room) return -1;
    std::memcpy(to, password->data(), password->size());
    return int(password->size());
}

}  // namespace

void PemFree::operator()(bio_st* source) const { BIO_free(source); }
void PemFree::operator()(x509_st* certificate) const { X509_free(certificate); }

PemSource open_pem_file(const std::string& path) {
    return PemSource(BIO_new_file(path.c_str(), "r"));
}

PemSource open_pem_text(Slice text) {
    return PemSource(BIO_new_mem_buf(text.data(), int(text.size())));
}

const char* read_pem_chain(bio_st* from, std::vector<CertificatePtr>& to) {
    X509* next = PEM_read_bio_X509_AUX(from, nullptr, give_password, nullptr);
    if (!next) return "PEM_read_bio_X509_AUX()";
    for (; next; next = PEM_read_bio_X509(from, nullptr, give_password, nullptr)) {
        to.emplace_back(next);
    }
    unsigned long error = ERR_peek_last_error();
    if (ERR_GET_LIB(error) != ERR_LIB_PEM || ERR_GET_REASON(error) != PEM_R_NO_START_LINE) {
        return "PEM_read_bio_X509()";
    }
    ERR_clear_error();   // the end of the text
    return nullptr;
}

const char* read_pem_key(bio_st* from, const std::vector<std::string>& passwords,
                         evp_pkey_st*& to) {
    to = nullptr;
    size_t tries = std::max<size_t>(passwords.size(), 1);
    for (size_t i = 0; i < tries && !to; ++i) {
        ERR_clear_error();
        static_cast<void>(BIO_reset(from));
        const std::string* password = i < passwords.size() ? &passwords[i] : nullptr;
        to = PEM_read_bio_PrivateKey(from, nullptr, give_password,
                                     const_cast<std::string*>(password));
    }
    return to ? nullptr : "PEM_read_bio_PrivateKey()";
}

}  // namespace core
