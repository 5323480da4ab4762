//! quick2
use moelten_quant::*;
fn main(){ let a:Vec<String>=std::env::args().collect(); let f=Format::from_name(&a[1]).unwrap(); let (rows,cols,tokens)=(a[2].parse::<usize>().unwrap(),a[3].parse::<usize>().unwrap(),a[4].parse::<usize>().unwrap());
 let k=Kernels::for_isa(Isa::from_name(&a[5]).unwrap()).unwrap(); let reps:usize=a[6].parse().unwrap();
 let bytes:Vec<u8>=(0..f.row_bytes(cols).unwrap()*rows).map(|i|(i as u8).wrapping_mul(37)&0x77).collect(); let m=QMatrix::new(f,rows,cols,&bytes).unwrap();
 let kind=ActivationKind::of(f); let x:Vec<f32>=(0..tokens*cols).map(|i| (i%13) as f32-6.0).collect(); let l=activations(k,kind,&x,cols); let mut out=vec![0f32;rows*tokens];
 let mut best=1e9f64; for _ in 0..reps { let t=std::time::Instant::now(); k.matmul(m,Activations::new(kind,tokens,cols,&l),&mut out); best=best.min(t.elapsed().as_secs_f64()); }
 println!("{} {f} {rows}x{cols} t{tokens}: {:.1} GF/s {:.2} GB/s",a[5],2.0*(rows*cols*tokens) as f64/best/1e9,bytes.len() as f64/best/1e9); std::hint::black_box(&out); }
