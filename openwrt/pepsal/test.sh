#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Run by the packages feed's CI in a simulated router of each architecture, with the package's name and version.

[ "${1:-$PKG_NAME}" = pepsal ] || exit 0

set -e
pepsal --version | grep -F "${2:-$PKG_VERSION}"
pepsal rules --lan lo --wan lo | grep -F 'table inet pepsal'
