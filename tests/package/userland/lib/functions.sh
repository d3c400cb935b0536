# Stand-in for OpenWrt's /lib/functions.sh: sections in CONFIG_SECTIONS, values in CONFIG_section_option.
# shellcheck shell=dash disable=SC2034

list_contains() {
	local list
	eval "list=\" \$$1 \""
	case "$list" in
	*" $2 "*) return 0 ;;
	*) return 1 ;;
	esac
}

append() {
	eval "$1=\"\${$1:+\$$1 }\$2\""
}

config_load() {
	CONFIG_SECTIONS=''
	eval "$(uci-read "$1" | awk -F '\t' '
		function quoted(s) { gsub(/\047/, "\047\\\047\047", s); return "\047" s "\047" }
		$1 == "section" { print "append CONFIG_SECTIONS " $2 "; CONFIG_" $2 "_TYPE=" $3
			for (known in seen) if (known ~ "^" $2 "_") delete seen[known] }
		$1 == "option" { print "CONFIG_" $2 "_" $3 "=" quoted($4) }
		$1 == "list" { id = $2 "_" $3
			print (id in seen ? "append CONFIG_" id " " quoted($4) : "CONFIG_" id "=" quoted($4)); seen[id] = 1 }')"
}

config_get() {
	eval "$1=\"\${CONFIG_$2_$3:-\$4}\""
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
