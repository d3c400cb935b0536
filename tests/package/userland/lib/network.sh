# Stand-in for OpenWrt's /lib/functions/network.sh.
# shellcheck shell=dash

_network_field() {
	local value
	value="$(awk -v name="$2" -v field="$3" '$1 == name && $field != "-" { print $field }' /state/interfaces)"
	eval "$1=\"\$value\""
	[ -n "$value" ]
}

network_get_device() { _network_field "$1" "$2" 2; }
network_get_physdev() { _network_field "$1" "$2" 3; }
