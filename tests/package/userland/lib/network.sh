# Stand-in for OpenWrt's /lib/functions/network.sh.
# shellcheck shell=dash

_network_field() {
	local value

	# The real one puts the name between quotes into an expression of jsonfilter's; what a name cannot be must not get there.
	case "$2" in
	*[!A-Za-z0-9_]*)
		echo "network.sh: bad variable name $2" >>/state/log
		exit 2
		;;
	esac
	value="$(awk -v name="$2" -v field="$3" '$1 == name && $field != "-" { print $field }' /state/interfaces)"
	eval "$1=\"\$value\""
	[ -n "$value" ]
}

network_get_device() { _network_field "$1" "$2" 2; }
network_get_physdev() { _network_field "$1" "$2" 3; }
