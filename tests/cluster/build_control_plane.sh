#!/usr/bin/env bash
# Builds kube-apiserver, kube-controller-manager and kube-scheduler from Debian 12's source package `kubernetes`, whose tarball holds the whole
# upstream tree with vendor/, by Debian's own Go. Needs Debian 12 and root, some 11 minutes of one core, 2.5 GB for the time of the build.
# usage: build_control_plane.sh FOLDER SOURCE_VERSION
set -euo pipefail
out=$1 version=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apt-get install -y --no-install-recommends golang-go etcd-server patch golang-github-modern-go-reflect2-dev >/dev/null
# A deb-src list of its own, made from the machine's own sources: the system's lists stay as they are.
uri=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/deb" "$work/gopath/src/k8s.io" "$work/bin"
echo "deb-src $uri bookworm main" > "$work/apt/src.list"
cat > "$work/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/apt/src.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
CONF
cd "$work"
apt-get -c apt/apt.conf update >/dev/null
apt-get -c apt/apt.conf source --download-only "kubernetes=$version"
tar xzf kubernetes_*.orig.tar.gz -C gopath/src/k8s.io
mv gopath/src/k8s.io/kubernetes-* gopath/src/k8s.io/kubernetes
tar xJf kubernetes_*.debian.tar.xz -C deb
cd gopath/src/k8s.io/kubernetes
while read -r one; do patch -p1 -s < "$work/deb/debian/patches/$one"; done < "$work/deb/debian/patches/series"
# The vendored reflect2 1.0.1 crashes under Go >= 1.18 (layout of map iterators); Debian packages 1.0.2, which does not.
reflect2=vendor/github.com/modern-go/reflect2
rm -rf $reflect2 && mkdir -p $reflect2
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s $reflect2/
rm -f $reflect2/*_test.go
export GOPATH="$work/gopath" GO111MODULE=off CGO_ENABLED=0 GOCACHE="$work/gocache" HOME="$work"
# The one file that upstream generates when it builds.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd staging/src/k8s.io \
  | grep -vE 'code-generator|sample-apiserver|/testdata/|zz_generated' \
  | sed 's#^staging/src/#vendor/#' | xargs -n1 dirname | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
"$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations.report" 2>/dev/null
diff -q "$work/violations.report" api/api-rules/violation_exceptions.list # upstream's own list: what was generated is what upstream generates
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
  at=k8s.io/kubernetes/vendor/k8s.io/$package
  flags="$flags -X $at.gitVersion=v1.20.2 -X $at.gitMajor=1 -X $at.gitMinor=20 -X $at.gitTreeState=archive -X $at.buildDate=1970-01-01T00:00:00Z"
done
for program in kube-apiserver kube-controller-manager kube-scheduler; do go build -ldflags "$flags" -o "$work/bin/$program" ./cmd/$program; done
mkdir -p "$(dirname "$out")"
mv "$work/bin" "$out"
