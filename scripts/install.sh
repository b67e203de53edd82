#!/bin/sh
# install.sh LOG PYTHON ARGUMENTS...: run `PYTHON -m pip install ARGUMENTS`, and print a line only for what takes long:
# downloads of megabytes, and the unpacking of all packages. The Makefile calls it. Everything that pip prints is written
# to the file LOG; if pip fails, LOG is printed and the exit status is 1.
log=$1 python=$2
shift 2
: >"$log"
{ "$python" -m pip install --progress-bar off "$@" 2>&1 || echo "pip-failed"; } | while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case $line in
    *"Downloading "*" MB)"*)
        # The rest of the line is [URL/]name-version-tags.whl (3.8 MB). Name, version and size fit into a line of a terminal.
        file=${line#*Downloading } file=${file##*/}
        echo "  fetching $(printf '%s' "${file%% *}" | cut -d - -f 1,2) (${file##*(}"
        ;;
    "Installing collected packages: "*) echo "  unpacking $(printf '%s,' "$line" | tr -cd , | wc -c | tr -d ' ') packages" ;;
    esac
done
if [ "$(tail -n 1 "$log")" = "pip-failed" ]; then
    cat "$log"
    exit 1
fi
