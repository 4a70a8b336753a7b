# The Debian package: where its files go and what its control file says. Included by CMakeLists.txt
# when RESTY_PACKAGE is on (./dev package); then `cpack -G DEB` writes the package.

# Nothing here has a name that nginx's packages use: both can be installed.
set(share ${CMAKE_INSTALL_PREFIX}/share/resty-server)
set(made ${CMAKE_CURRENT_BINARY_DIR}/packaging)

# The defaults, with a user and a pid file of its own. The scripts make the user.
file(READ conf/defaults/server.conf text)
string(REPLACE "#user  www-data;                 # what the workers run as when started by root"
  "user  resty-server;\npid   /run/resty-server.pid;" text "${text}")
if(NOT text MATCHES "user  resty-server;")
  message(FATAL_ERROR "conf/defaults/server.conf has no line to put the user into")
endif()
file(WRITE ${made}/server.conf "${text}")
install(FILES ${made}/server.conf conf/defaults/mime.types DESTINATION /etc/resty-server)
install(FILES ${packaging}/debian/logrotate DESTINATION /etc/logrotate.d RENAME resty-server)

# The first installation copies these below the prefix, where they are the administrator's.
install(DIRECTORY conf/defaults/html conf/defaults/handlers DESTINATION ${share})
install(DIRECTORY DESTINATION ${RESTY_PREFIX})
file(CREATE_LINK /var/log/resty-server ${made}/logs SYMBOLIC)
install(FILES ${made}/logs DESTINATION ${RESTY_PREFIX})
install(FILES README.md CONFORMANCE.md server/process.md ${packaging}/Containerfile
  DESTINATION ${CMAKE_INSTALL_PREFIX}/share/doc/resty-server)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME resty-server)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "resty-server maintainers <resty-server@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "event-driven web server with LuaJIT inside")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
  "resty-server reads the configuration language of nginx and runs the handlers and
the API of OpenResty in a server of its own: files, gateway, TLS and Lua in every
phase of a request. Reload, binary upgrade and changed handlers cost no connection.")
set(CPACK_SET_DESTDIR ON)                # /etc and /var are not below the prefix
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION httpd)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# The other LuaJIT that its symbols file names lacks what OpenResty's branch has.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "adduser, libluajit2-5.1-2")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "logrotate, ca-certificates")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${packaging}/debian/postinst ${packaging}/debian/prerm
  ${packaging}/debian/postrm ${packaging}/debian/conffiles)
include(CPack)
