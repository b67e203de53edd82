#!/bin/sh
# install.sh LOG PYTHON ARGUMENTS...: pip install, which says in a line what takes long; all of it only if it fails.
log=$1 python=$2
shift 2
: >"$log"
{ "$python" -m pip install --progress-bar off "$@" 2>&1 || echo "pip-failed"; } | while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case $line in
    *"Downloading "*" MB)"*)
        file=${line#*Downloading } file=${file##*/} # name-version-tags.whl (3.8 MB): without the tags it fits the terminal
        echo "  fetching $(printf '%s' "${file%% *}" | cut -d - -f 1,2) (${file##*(}"
        ;;
    "Installing collected packages: "*) echo "  unpacking $(printf '%s,' "$line" | tr -cd , | wc -c | tr -d ' ') packages" ;;
    esac
done
if [ "$(tail -n 1 "$log")" = "pip-failed" ]; then
    cat "$log"
    exit 1
fi
