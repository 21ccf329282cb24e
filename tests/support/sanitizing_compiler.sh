#!/bin/sh
# The C++ compiler with address and undefined-behaviour checks, for `make sanitize`: CXX names it.
# What they need in the process that loads the library would only slow the compiler down.
unset LD_PRELOAD
exec c++ "$@" -O1 -g -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=all
