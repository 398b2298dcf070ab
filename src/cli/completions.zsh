#compdef rdlm
# Completions of rdlm for zsh.

_rdlm_resources() {
    compadd "$@" -- ${(f)"$(rdlm __names "$PREFIX" 2>/dev/null)"}
}

_rdlm() {
    local curcontext=$curcontext state line
    local -a subcommands
    subcommands=(
@FIRST@
    )
    _arguments -C '1:command:->command' '*::argument:->argument' @GENERAL@
    case $state in
        command) _describe command subcommands ;;
        argument)
            # What follows -- is a command with completions of its own.
            if (( $words[(I)--] && $words[(I)--] < CURRENT )); then
                shift $words[(i)--] words
                (( CURRENT = $#words ))
                _normal
                return
            fi
            case $words[1] in
@COMMANDS@
            esac ;;
    esac
}

# Sourced, or loaded by compinit.
if [[ $funcstack[1] == _rdlm ]]; then
    _rdlm "$@"
else
    compdef _rdlm rdlm
fi
