# Stand-in for OpenWrt's /lib/functions.sh and /lib/config/uci.sh: sections in CONFIG_SECTIONS, values in CONFIG_section_option.
# Like the real one config_load leaves the values of what was loaded before, but for lists.
# shellcheck shell=dash disable=SC2034,SC2295 # a pattern, as there

append() {
	eval "$1=\"\${$1:+\$$1\${3:- }}\$2\""
}

list_contains() {
	local all

	eval "all=\" \$$1 \""
	[ "${all%% $2 *}" != "$all" ]
}

# What `uci export` writes are calls of the next four.
package() { :; }

config() {
	append CONFIG_SECTIONS "$2"
	CONFIG_SECTION="$2"
	config_set "$2" TYPE "$1"
}

option() {
	config_set "$CONFIG_SECTION" "$1" "$2"
}

list() {
	list_contains CONFIG_LISTS "${CONFIG_SECTION}_$1" || {
		append CONFIG_LISTS "${CONFIG_SECTION}_$1"
		config_unset "$CONFIG_SECTION" "$1"
	}
	append "CONFIG_${CONFIG_SECTION}_$1" "$2"
}

config_load() {
	local exported result list

	for list in $CONFIG_LISTS; do
		eval "CONFIG_$list="
	done
	CONFIG_LISTS='' CONFIG_SECTIONS=''
	exported="$(/sbin/uci -P /var/state -S -n export "$1" 2>/dev/null)"
	result=$?
	[ "$result" != 0 ] || eval "$exported"
	return "$result"
}

config_set() {
	eval "CONFIG_$1_$2=\"\$3\""
}

config_unset() {
	config_set "$1" "$2" ''
}

config_get() {
	case "$2$3" in
	*[!A-Za-z0-9_]*) ;;
	*) eval "$1=\"\${CONFIG_$2_$3:-\$4}\"" ;;
	esac
}

config_get_bool() {
	config_get "$@"
	case "$(eval "echo \$$1")" in
	1 | on | true | yes | enabled) eval "$1=1" ;;
	0 | off | false | no | disabled) eval "$1=0" ;;
	*) eval "$1=\$4" ;;
	esac
}

config_foreach() {
	local function_="$1" type_="$2" section_ its_type_
	shift 2
	for section_ in $CONFIG_SECTIONS; do
		config_get its_type_ "$section_" TYPE
		[ "$its_type_" != "$type_" ] || "$function_" "$section_" "$@"
	done
}
