package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	ourClass     = "lab.millstream.io/directory"
	selectedNode = "volume.kubernetes.io/selected-node"
	madeBy       = "pv.kubernetes.io/provisioned-by"
)

// provisioner makes a `local` PersistentVolume, a plain directory, for each claim of its classes, and removes released ones.
//
// A class's parameter `reach: node` (the default) ties the volume to the node that the scheduler chose, like a disk inside a machine;
// `reach: any` lets every node use it, like a network disk. A new directory belongs to root with mode 0755, as a fresh file system
// does, so that a pod without fsGroup cannot write. Sizes are not enforced.
type provisioner struct {
	client kubernetes.Interface
	dir    string
}

func provision(args []string) error {
	flags := flag.NewFlagSet("provision", flag.ExitOnError)
	config := flags.String("kubeconfig", "", "kubeconfig")
	dir := flags.String("dir", "", "folder that holds the volumes")
	_ = flags.Parse(args) // ExitOnError
	rest, err := clientcmd.BuildConfigFromFlags("", *config)
	if err != nil {
		return err
	}
	rest.QPS, rest.Burst = 100, 200
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	p := &provisioner{client: client, dir: *dir}
	for {
		pause := 200 * time.Millisecond
		if err := p.pass(context.Background()); err != nil {
			fmt.Fprintf(os.Stderr, "%s %v\n", time.Now().Format(time.RFC3339), err)
			pause = time.Second
		}
		time.Sleep(pause)
	}
}

// pass does once what is to do. Listing is cheap: resource version 0 is answered from the API server's cache.
func (p *provisioner) pass(ctx context.Context) error {
	cached := metav1.ListOptions{ResourceVersion: "0"}
	classes, err := p.client.StorageV1().StorageClasses().List(ctx, cached)
	if err != nil {
		return err
	}
	ours := map[string]*storagev1.StorageClass{}
	for i := range classes.Items {
		if class := &classes.Items[i]; class.Provisioner == ourClass {
			ours[class.Name] = class
		}
	}
	volumes, err := p.client.CoreV1().PersistentVolumes().List(ctx, cached)
	if err != nil {
		return err
	}
	made := map[string]bool{}
	for i := range volumes.Items {
		made[volumes.Items[i].Name] = true
		if err := p.removeReleased(ctx, &volumes.Items[i]); err != nil {
			return err
		}
	}
	claims, err := p.client.CoreV1().PersistentVolumeClaims("").List(ctx, cached)
	if err != nil {
		return err
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.Spec.StorageClassName == nil || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || made[volumeName(claim)] {
			continue
		}
		class := ours[*claim.Spec.StorageClassName]
		if class == nil {
			continue
		}
		node := claim.Annotations[selectedNode]
		if node == "" && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
			continue
		}
		if err := p.create(ctx, class, claim, node); err != nil && !errors.IsAlreadyExists(err) {
			return fmt.Errorf("claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

func (p *provisioner) removeReleased(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Annotations[madeBy] != ourClass || volume.Status.Phase != corev1.VolumeReleased || volume.DeletionTimestamp != nil ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.dir, volume.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if err != nil && !errors.IsNotFound(err) {
		return err
	}
	fmt.Println("deleted", volume.Name)
	return nil
}

func (p *provisioner) create(ctx context.Context, class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim, node string) error {
	path := filepath.Join(p.dir, volumeName(claim))
	mode := uint64(0o755)
	if text := class.Parameters["mode"]; text != "" {
		var err error
		if mode, err = strconv.ParseUint(text, 8, 32); err != nil {
			return fmt.Errorf("parameter mode of class %s: %w", class.Name, err)
		}
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(path, os.FileMode(mode)); err != nil { // MkdirAll's mode is cut by the umask
		return err
	}
	key, value := "kubernetes.io/os", "linux"
	if class.Parameters["reach"] != "any" && node != "" {
		key, value = "kubernetes.io/hostname", node
	}
	where := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}},
	}}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volumeName(claim), Annotations: map[string]string{madeBy: ourClass}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity:                  &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{where}}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
				ResourceVersion: claim.ResourceVersion,
			},
		},
	}, metav1.CreateOptions{})
	if err == nil {
		fmt.Println("created", volumeName(claim), "for", claim.Namespace+"/"+claim.Name)
	}
	return err
}
