#!/bin/sh
# certificates.sh SERVER CLIENT [NAME]: into the first directory server.pem and server.key, for NAME
# and localhost, into the second client.pem and client.key, and ca.pem into both. The authority's
# own key is thrown away: what is there is kept until a month before it ends, then all is made anew.
set -eu
server=$1 client=$2 name=${3:-localhost}

if [ -e "$client/client.pem" ] && openssl x509 -in "$server/server.pem" -noout -checkend 2592000
then
    exit
fi

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 \
    -subj "/CN=redis-sessions" -keyout ca.key -out ca.pem \
    -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null  # Python 3.13 asks for it

issue() {  # issue FILE SUBJECT EXTENSIONS
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -subj "/CN=$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 \
        -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}
# The health check shows the server's own.
identifiers="authorityKeyIdentifier=keyid
subjectKeyIdentifier=hash"
issue server "$name" "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth,clientAuth
$identifiers"
issue client app "extendedKeyUsage=clientAuth
$identifiers"

# Each volume is mounted where its key belongs and nowhere else, under whatever user runs there.
chmod 444 ca.pem server.pem server.key client.pem client.key
mv -f server.pem server.key "$server/"
cp -fp ca.pem "$server/"
mv -f client.key ca.pem "$client/"
mv -f client.pem "$client/"
