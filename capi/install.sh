#!/bin/sh
# Copies the library, its headers, a pkg-config file and a CMake package into a prefix:
#
#     cargo build --release -p pccl-capi && capi/install.sh PREFIX
set -eu
[ $# = 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
built=${CARGO_TARGET_DIR:-$here/../target}/release
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml" | head -n 1)

install -d "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/pccl"
install -m 644 "$here"/include/*.h "$prefix/include"
install -m 755 "$built/libpccl.so" "$prefix/lib"
install -m 644 "$built/libpccl.a" "$prefix/lib"

cat >"$prefix/lib/pkgconfig/pccl.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: pccl
Description: Fault-tolerant collective communication
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lpccl
Libs.private: -lpthread -ldl -lm
END

cat >"$prefix/lib/cmake/pccl/pcclConfig.cmake" <<'END'
# find_package(pccl) gives the target pccl::pccl.
get_filename_component(_pccl_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET pccl::pccl)
  add_library(pccl::pccl SHARED IMPORTED)
  set_target_properties(pccl::pccl PROPERTIES
    IMPORTED_LOCATION "${_pccl_prefix}/lib/libpccl.so"
    IMPORTED_SONAME "libpccl.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_pccl_prefix}/include")
endif()
set(pccl_FOUND TRUE)
END

cat >"$prefix/lib/cmake/pccl/pcclConfigVersion.cmake" <<END
set(PACKAGE_VERSION "$version")
if(PACKAGE_FIND_VERSION VERSION_LESS_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
END
