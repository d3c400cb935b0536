# Stand-in for OpenWrt's procd.sh: what procd is to do goes to ubus as JSON, a service in one piece when it is closed.
# shellcheck shell=dash disable=SC1091,SC2154

. /usr/share/libubox/jshn.sh

procd_open_service() {
	json_init
	json_add_string name "$1"
	json_add_string script "$2"
	json_add_object instances
}

procd_close_service() {
	json_close_object
	json_add_array triggers
	service_triggers
	json_close_array
	ubus call service set "$(json_dump)"
}

procd_kill() {
	json_init
	json_add_string name "$1"
	ubus call service delete "$(json_dump)"
}

# Without a name of an instance, or with *, to all of them.
procd_send_signal() {
	json_init
	json_add_string name "$1"
	[ "${2:-*}" = '*' ] || json_add_string instance "$2"
	json_add_int signal "$(kill -l "$3")"
	ubus call service signal "$(json_dump)"
}

procd_open_instance() {
	json_add_object "$1"
}

# Without values, what the system has for all services.
procd_close_instance() {
	local _json_no_warning=1 values

	json_select respawn && {
		json_get_values values
		[ -n "$values" ] || _add_strings "$(_respawn threshold 3600)" "$(_respawn timeout 5)" "$(_respawn retry 5)"
		json_select ..
	}
	json_close_object
}

_respawn() {
	uci -q get "system.@service[0].respawn_$1" || echo "$2"
}

_add_strings() {
	local value

	for value in "$@"; do
		json_add_string '' "$value"
	done
}

_add_array() {
	json_add_array "$1"
	shift
	_add_strings "$@"
	json_close_array
}

# What the real one does not know it leaves out; here it is to be seen.
procd_set_param() {
	local type="$1" pair
	shift

	case "$type" in
	command | respawn) _add_array "$type" "$@" ;;
	limits)
		json_add_object limits
		for pair in "$@"; do
			json_add_string "${pair%%=*}" "${pair#*=}"
		done
		json_close_object
		;;
	term_timeout) json_add_int "$type" "$1" ;;
	user | group | capabilities) json_add_string "$type" "$1" ;;
	stdout | stderr | no_new_privs) json_add_boolean "$type" "$1" ;;
	*) json_add_string UNKNOWN "$type" ;;
	esac
}

procd_append_param() {
	local type="$1"
	shift

	json_select "$type"
	_add_strings "$@"
	json_select ..
}

procd_add_jail() {
	json_add_object jail
	json_add_string name "$1"
	json_add_object mount
	json_close_object
	json_close_object
}

# _add_trigger EVENT KEY VALUE COMMAND...: what procd runs a second after an event that says KEY is VALUE
_add_trigger() {
	json_add_array ''
	_add_strings "$1"
	json_add_array ''
	_add_strings if
	_add_array '' eq "$2" "$3"
	shift 3
	_add_array '' run_script "$@"
	json_close_array
	json_add_int '' 1000
	json_close_array
}

procd_add_config_trigger() {
	local event="$1" package="$2"

	shift 2
	_add_trigger "$event" package "$package" "$@"
}

procd_add_interface_trigger() {
	local event="$1" interface="$2"

	shift 2
	_add_trigger "$event" interface "$interface" "$@"
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
