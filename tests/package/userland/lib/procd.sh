# Stand-in for OpenWrt's procd.sh: writes down what procd would be sent. A service is sent in one piece when it is closed.
# shellcheck shell=dash

# The name is for who wants to know whether procd would start another daemon.
procd_open_instance() {
	echo "instance" >>/state/procd.new
	echo "$1" >/state/procd.name
}
procd_close_instance() { :; }
procd_add_jail() { echo "jail $*" >>/state/procd.new; }
procd_add_reload_trigger() { echo "reload on config $*" >>/state/procd.new; }
procd_add_reload_interface_trigger() { echo "reload on interface $*" >>/state/procd.new; }

procd_set_param() {
	local type="$1"
	shift
	case "$type" in
	command | limits | respawn | stdout | stderr | user | group | capabilities | no_new_privs | term_timeout) ;;
	*) echo "UNKNOWN" >>/state/procd.new ;;
	esac
	echo "$type${*:+ $*}" >>/state/procd.new
}

procd_append_param() {
	echo "append $*" >>/state/procd.new
}

uci_load_validate() {
	local _package="$1" _type="$2" _name="$3" _function="$4" _result _values _option
	shift 4
	for _option in "$@"; do
		eval "local ${_option%%:*}"
	done
	_values="$(/sbin/validate_data "$_package" "$_type" "$_name" "$@" 2>/dev/null)"
	_result=$?
	eval "$_values"
	eval "$_function \"\$_name\" \"\$_result\""
}
